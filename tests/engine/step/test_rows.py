"""Rows of data: their members, and what their prompt is."""

from pathlib import Path

from tests.plugins.architectures.codec_lm_helpers import small_codec_lm
from tests.plugins.architectures.kimi_helpers import small_kimi
from wavalign.engine.feeding.feeds import Encoder
from wavalign.engine.step.rows import data_rows
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role

ASKED = (Message("user", "w1"),)
ONE, OTHER = (
    Message("assistant", audio=AudioClip.of_codes((1, 2))),
    Message("assistant", audio=AudioClip.of_codes((3,))),
)


def test_a_lone_side_keeps_its_number(tmp_path: Path) -> None:
    architecture = small_codec_lm(tmp_path)
    given = [
        Dialogue("both", ASKED, targets=(ONE, OTHER), members=(0, 1)),
        Dialogue("lone", ASKED, targets=(OTHER,), members=(1,)),
        Dialogue("plain", ASKED, ONE),
        Dialogue("unnumbered", ASKED, targets=(OTHER, ONE)),
    ]
    rows = data_rows(given, Encoder(architecture, None), architecture.tokens, family="pairs")
    assert [(row.group, row.member) for row in rows] == [(0, 0), (0, 1), (1, 1), (2, 0), (3, 0), (3, 1)]
    spoken = [int((row.tokens.roles == int(Role.AUDIO)).sum()) for row in rows]
    assert spoken == [2, 1, 1, 2, 1, 2], "codes stand in for sound, without a codec"


def test_the_prompt_of_a_written_pair_announces_text(tmp_path: Path) -> None:
    """As the prompt of the same answer alone does."""
    kimi = small_kimi(tmp_path, output="by_target")
    written = (Message("assistant", "w2"), Message("assistant", "w3"))
    encoder = Encoder(kimi, None)
    rows = data_rows([Dialogue("d", ASKED, targets=written, members=(0, 1))], encoder, kimi.tokens, family="pairs")
    alone = data_rows([Dialogue("d", ASKED, each) for each in written], encoder, kimi.tokens, family="pairs")
    assert [row.tokens.ids.tolist() for row in rows] == [row.tokens.ids.tolist() for row in alone]
    assert [row.tokens.roles.tolist() for row in rows] == [row.tokens.roles.tolist() for row in alone]
