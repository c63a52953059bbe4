import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.data.sounds import ready
from wavalign.errors import DataError
from wavalign.plugins.batch import AudioClip, Dialogue, Message
from wavalign.plugins.data.research_jsonl import ResearchJsonl, ResearchJsonlParams
from wavalign.plugins.data.slamkit_jsonl import SlamkitJsonl, SlamkitJsonlParams

GOOD = {"prompt_path": "p.wav", "chosen_path": "c.wav", "rejected_path": "/x/r.wav"}


def opened(path: Path, *records: Any, **options: Any) -> SlamkitJsonl:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    source = SlamkitJsonl(SlamkitJsonlParams(path=str(path), **options), seed=0)
    source.prepare(lambda what, done, total: None)
    return source


def test_a_line_is_a_pair(tmp_path: Path) -> None:
    source = opened(tmp_path / "d.jsonl", GOOD, {**GOOD, "id": "b", "speaker": 7})
    first, second = source.record(0), source.record(1)
    assert (first.id, first.messages) == ("line-1", (Message("user", "", AudioClip(f"{tmp_path}/p.wav")),))
    assert first.targets == tuple(
        Message("assistant", "", AudioClip(each)) for each in (f"{tmp_path}/c.wav", "/x/r.wav")
    )
    assert (first.members, first.target, first.scores) == ((0, 1), None, ())
    assert (second.id, second.metadata) == ("b", {"speaker": 7})
    rooted = opened(tmp_path / "d.jsonl", GOOD, audio_root="/sounds").record(0)
    assert rooted.messages[0].audio == AudioClip("/sounds/p.wav")


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"prompt_path": "p.wav", "chosen_path": "c.wav"}, "rejected_path: Field required"),
        ({**GOOD, "chosen_path": ""}, "chosen_path: String should have at least 1 character"),
        ({**GOOD, "chosen_path": 3}, "chosen_path: Input should be a valid string"),
        ({**GOOD, "chosen_path": "/x/r.wav"}, "chosen and rejected are the same answer: there is nothing to prefer"),
        ([1], "valid dictionary"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, record: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"d\.jsonl:2: .*{complaint}"):
        opened(tmp_path / "d.jsonl", GOOD, record)


def research(folder: Path, *records: Any, **options: Any) -> list[Dialogue]:
    path = folder / "r.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    source = ResearchJsonl(ResearchJsonlParams(path=str(path), **options), seed=0)
    return ready(source)


PREFERRED = {
    "messages": [{"role": "user", "content": "hi"}],
    "sft_target_text": "yo",
    "rejected_text": "no",
    "rejected_audio": "n.wav",
    "chosen_score": 4,
    "rejected_score": 1.5,
}


def test_rejected_answers_of_the_research_format(tmp_path: Path) -> None:
    plain = research(tmp_path, PREFERRED)[0]
    assert plain.target == Message("assistant", "yo") and plain.metadata["rejected_text"] == "no"
    pair = research(tmp_path, PREFERRED, rejected="side")[0]
    assert pair.target is None and pair.members == (0, 1) and pair.scores == (4.0, 1.5)
    assert pair.targets == (
        Message("assistant", "yo"),
        Message("assistant", "no", AudioClip(f"{tmp_path}/n.wav")),
    )
    unscored = {key: value for key, value in PREFERRED.items() if not key.endswith("_score")}
    assert research(tmp_path, unscored, rejected="side")[0].scores == ()
    lone = {key: value for key, value in PREFERRED.items() if not key.startswith("rejected")}
    with pytest.raises(DataError, match=r"r\.jsonl:1: there is no rejected answer"):
        research(tmp_path, lone, rejected="side")
