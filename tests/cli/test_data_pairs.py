"""`wavalign data pairs` on files of answers as a person has them, and what is said of pairs that are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from wavalign_cli import app as application

ASKED = {"messages": [{"role": "user", "text": "one plus one"}]}


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return str(path)


def answer(text: str, **scores: float) -> dict[str, Any]:
    return {**ASKED, "target": {"text": text}, "metadata": {"scores": scores, "style": "sad"}}


def told(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    found = application.main(["data", "pairs", *arguments])
    said = capsys.readouterr()
    assert found == code, said
    return said.out + said.err


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_best_against_the_worst_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path / "a.jsonl",
        *(answer(text, wer=wer, like=like) for text, wer, like in (("it is a", 0.5, 0.1), ("it is b", 0.1, 0.9))),
        answer("it is c", wer=0.9),
        {**ASKED, "messages": [{"role": "user", "text": "else"}], "target": {"text": "x"}},
    )
    out = tmp_path / "pairs.jsonl"
    options = ("--by", "scored", "--set", "facets={wer: {mode: min, weight: 2}, like: {}}", "-o", str(out))
    said = told(capsys, 0, path, *options)
    assert f"{out}: 1 pairs of 4 records, 2 prompts" in said
    assert "left out: 2 answers that lack a score" in said and "1 prompts with too few answers" in said
    (pair,) = records(out)
    assert (pair["chosen"]["text"], pair["rejected"]["text"]) == ("it is b", "it is a")
    assert pair["metadata"]["style"] == "sad" and pair["metadata"]["pair"]["by"] == "scored"
    assert pair["chosen"]["score"] == pytest.approx((2 * -0.1 + 0.9) / 3)
    assert told(capsys, 0, path, *options, "--format", "json").count('"made": 1') == 1
    assert application.main(["data", "check", str(out)]) == 0, "what it wrote can be read"
    capsys.readouterr()
    said = told(capsys, 0, path, "--by", "best", "--set", "facets={wer: {mode: min}}", "-o", str(out))
    assert "1 best answers" in said and records(out)[0]["target"] == {"text": "it is b"}


def test_pairs_that_are_there_are_looked_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("p", "c", "r"):
        (tmp_path / f"{name}.wav").write_bytes(b"")
    line = {"prompt_path": "p.wav", "chosen_path": "c.wav", "rejected_path": "r.wav"}
    path = write(tmp_path / "s.jsonl", line, {**line, "chosen_path": "gone.wav"})
    assert "2 pairs of 2 records" in told(capsys, 0, path, "--by", "given", "-o", str(tmp_path / "o.jsonl"))
    assert application.main(["data", "check", path]) == 1
    shown = capsys.readouterr().out
    assert f"{path}:2: chosen.audio: {tmp_path}/gone.wav" in shown, "the guessed kind, and the sound that is missing"
    two = {**ASKED, "chosen": {"codes": [1, 2, 3, 4]}, "rejected": {"codes": [1]}}
    path = write(tmp_path / "t.jsonl", two, {**two, "rejected": {"codes": [1, 2]}, "id": "b"})
    said = told(capsys, 0, path, "--by", "given", "-o", str(tmp_path / "o.jsonl"))
    assert "1 pairs of 2 records" in said and "left out: 1 pairs with sides of too different length" in said


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--by", "scored"), 5, "no pair can be made of the 1 records: 1 prompts with too few answers"),
        (("--by", "best-of"), 2, "pairs: type: Input tag 'best-of'"),
        (("--by", "golden", "--set", "top=2"), 2, "pairs: golden.top: Extra inputs are not permitted"),
        (("--by", "golden", "--set", "merge=all"), 2, "merge is of earlier rounds of a run"),
        (("--by", "golden", "--set", "gold=demonstrations"), 2, "golden answers are those that the records hold"),
        (("--by", "golden"), 5, "no pair can be made of the 1 records: 1 answers without a golden one"),
    ],
)
def test_what_cannot_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: int, complaint: str
) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("before")
    assert complaint in told(capsys, code, write(tmp_path / "a.jsonl", answer("yes", s=1)), *options, "-o", str(out))
    assert out.read_text() == "before", "nothing is lost"
