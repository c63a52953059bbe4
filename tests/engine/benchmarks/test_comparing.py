"""Two evaluations, question by question: against SciPy, wins by the better side, and only what was asked of both."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from wavalign.engine import api
from wavalign.engine.benchmarks.comparing import compare_folders
from wavalign.errors import DataError, UsageError

BETTER = {"choice": "more", "word_error_rate": "less", "finished": "more", "judge/x": "more"}


def evaluation(folder: Path, columns: dict[str, Sequence[float | None]], first: int = 0) -> Path:
    folder.mkdir()
    about = {name: {"better": BETTER[name]} for name in columns}
    (folder / "summary.json").write_text(json.dumps({"model": folder.name, "values": about}))
    count = len(next(iter(columns.values())))
    rows: list[dict[str, Any]] = [
        {"key": str(first + i), "values": {name: column[i] for name, column in columns.items()}} for i in range(count)
    ]
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_shares_by_mcnemar_and_rates_with_less_as_better(tmp_path: Path) -> None:
    right_a = [1.0] * 9 + [0.0] * 11
    right_b = [0.0] * 7 + [1.0] * 3 + [0.0] * 10
    a = evaluation(tmp_path / "a", {"choice": right_a, "word_error_rate": [0.1] * 20, "finished": [1.0] * 20})
    b = evaluation(
        tmp_path / "b", {"choice": right_b, "word_error_rate": [0.2] * 15 + [0.1] * 5, "finished": [1.0] * 20}
    )
    found = compare_folders(a, b)
    choice, rate = found.values
    assert (choice.wins, choice.ties, choice.losses) == (7, 12, 1)
    assert (choice.a, choice.b, choice.found.difference) == pytest.approx((0.45, 0.15, 0.3))
    assert choice.found.p == pytest.approx(float(binomtest(7, 8).pvalue))
    assert choice.p == pytest.approx(max(choice.found.p, min(1.0, 2 * min(choice.found.p, rate.found.p))), rel=1e-9)
    assert (rate.wins, rate.ties, rate.losses) == (15, 5, 0)
    assert "B worse than A" in rate.sentence("A", "B")
    assert found.equal == {"finished": 1.0} and found.unpaired == []


def test_only_questions_of_both_count(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", {"choice": [1.0, 1.0, 0.0, 1.0], "judge/x": [1.0, 2.0, None, None]})
    b = evaluation(tmp_path / "b", {"choice": [1.0, 1.0, 0.0], "judge/x": [None, None, 3.0]}, first=2)
    found = api.compare(a, b)
    assert (found.common, found.only_a, found.only_b) == (2, 2, 1)
    (choice,) = found.values
    assert (choice.found.count, choice.found.only_a, choice.found.only_b) == (2, 0, 1)
    assert found.unpaired == ["judge/x"]
    c = evaluation(tmp_path / "c", {"choice": [1.0]}, first=100)
    with pytest.raises(UsageError, match="no question in common"):
        compare_folders(a, c)


def test_what_is_no_evaluation_says_so(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", {"choice": [1.0]})
    with pytest.raises(UsageError, match="holds no evaluation that is complete"):
        compare_folders(a, tmp_path)
    (a / "scores.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"scores.jsonl:1: no score"):
        compare_folders(a, a)
