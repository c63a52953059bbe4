"""The three shares there are, and nothing else."""

import pytest

from wavalign.schema.share import Share


def test_shares_and_their_values() -> None:
    assert Share.parse("gate").value(0.3) == 0.3
    assert Share.parse("1 - gate").value(0.3) == 0.7
    assert Share.parse("1-gate").value(0.25) == 0.75
    assert Share.parse(0.5).value(None) == 0.5
    assert Share.parse("2").value(0.9) == 2.0


def test_only_the_gate_moves() -> None:
    assert [Share.parse(share).moves for share in ("gate", "1 - gate", 1.0)] == [True, True, False]


@pytest.mark.parametrize("share", ["gates", "gate - 1", "2 * gate", "1 - gate - gate", "", "-1", "nan", "inf", -0.5])
def test_anything_else_is_refused(share: str | float) -> None:
    with pytest.raises(ValueError, match="a share is `gate`, `1 - gate` or a number"):
        Share.parse(share)


def test_a_moving_share_needs_a_gate() -> None:
    with pytest.raises(ValueError, match="there is none"):
        Share.parse("gate").value(None)
