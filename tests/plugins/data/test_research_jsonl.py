"""The research code's records as they are, and what it would leave out without a word."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc
from pydantic import ValidationError

from tests.plugins.data.sounds import level, ready, streamed, write_wav
from wavalign.errors import DataError
from wavalign.plugins.batch import AudioClip, Message
from wavalign.plugins.data.research_jsonl import ResearchJsonl, ResearchJsonlParams

LUKE = {"role": "system", "content": "You are a voice assistant."}
ASKED = {"role": "user", "content": "Answer, then speak.\n\n<|audio|>"}
S2S = {
    "messages": [LUKE, ASKED], "audios": ["audio/q.wav"], "sft_target_text": "Sure.", "sft_target_audio": "audio/a.wav",
    "task_type": "s2s", "question_text": "How are you?",
}  # fmt: skip
TEXT_USER = {"role": "user", "content": "hi"}


def source(path: Path, *records: Any, **options: Any) -> ResearchJsonl:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return ResearchJsonl(ResearchJsonlParams.model_validate({"path": str(path), **options}), seed=0)


def test_a_released_record(tmp_path: Path) -> None:
    write_wav(tmp_path / "audio/q.wav", 0.25)
    write_wav(tmp_path / "audio/a.wav", 0.5)
    (found,) = ready(source(tmp_path / "d.jsonl", S2S))
    assert found.messages == (
        Message("system", LUKE["content"]),
        Message("user", "Answer, then speak."),
        Message("user", "", AudioClip(f"{tmp_path}/audio/q.wav")),
    )
    assert found.target == Message("assistant", "Sure.", AudioClip(f"{tmp_path}/audio/a.wav"))
    assert (level(found.messages[2].audio), level(found.target.audio)) == (0.25, 0.5)
    assert found.id == "line-1" and found.metadata == {"task_type": "s2s", "question_text": "How are you?"}


def test_where_instructions_and_system_messages_go(tmp_path: Path) -> None:
    options = {"instruction": "beside_sound", "system_messages": "drop", "audio_root": "s3://b/sounds"}
    (found,) = ready(source(tmp_path / "d.jsonl", S2S, **options))
    assert found.messages == (Message("user", "Answer, then speak.", AudioClip("s3://b/sounds/audio/q.wav")),)


def test_audios_go_to_their_tags_in_order(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Your Voice: <|audio|>\n"},
        {"role": "user", "content": "<|audio|>"},
        {"role": "assistant", "content": "Fine.\n<|audio|>"},
        {"role": "user", "content": "and now <|audio|>"},
    ]
    record = {"messages": turns, "audios": ["/v", "/one", "/two", "/three"], "id": 7}
    (found,) = ready(source(tmp_path / "d.jsonl", record))
    assert found.messages == (
        Message("system", "Your Voice:", AudioClip("/v")),
        Message("user", "", AudioClip("/one")),
        Message("assistant", "Fine.", AudioClip("/two")),
        Message("user", "and now"),
        Message("user", "", AudioClip("/three")),
    )
    assert found.id == "7" and found.target is None
    assert found.metadata == {"task_type": "unknown", "question_text": "and now"}
    (dropped,) = ready(source(tmp_path / "d.jsonl", record, system_messages="drop"))
    assert dropped.messages == found.messages[1:], "the voice goes with its message"


def test_pairs_and_every_further_field_are_metadata(tmp_path: Path) -> None:
    more = {
        "rejected_text": "Okay.",
        "rejected_audio": "audio/bad.wav",
        "chosen_score": 9,
        "score_gap": 2.5,
        "mine": [1],
    }
    (found,) = ready(source(tmp_path / "d.jsonl", {**S2S, **more, "source_dataset": "x", "history_text": None}))
    assert found.metadata == {
        **more, "rejected_audio": f"{tmp_path}/audio/bad.wav", "source_dataset": "x", "task_type": "s2s",
        "question_text": "How are you?",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "task"),
    [
        ({"messages": [ASKED], "audios": ["q"], "sft_target_text": "a", "sft_target_audio": "a"}, "s2s"),
        ({"messages": [ASKED], "audios": ["q"], "sft_target_text": "a"}, "asr"),
        ({"messages": [TEXT_USER], "sft_target_audio": "a"}, "tts"),
        ({"messages": [TEXT_USER], "sft_target_text": "a"}, "text"),
        ({"messages": [TEXT_USER]}, "unknown"),
        ({"messages": [TEXT_USER], "sft_target_text": " ", "sft_target_audio": ""}, "unknown"),
        ({"messages": [ASKED], "audios": ["q"], "task_type": "s2s"}, "s2s"),
        ({"messages": [ASKED], "audios": ["q"], "task_type": "sqa", "sft_target_text": "a"}, "sqa"),
    ],
)
def test_the_task_type_is_declared_or_read_off(tmp_path: Path, record: dict[str, Any], task: str) -> None:
    (found,) = ready(source(tmp_path / "d.jsonl", record))
    assert found.metadata["task_type"] == task


def test_a_last_answer_in_the_messages_is_the_target(tmp_path: Path) -> None:
    spoken = {"role": "assistant", "content": "Yes.\n<|audio|>"}
    (found,) = ready(source(tmp_path / "d.jsonl", {"messages": [TEXT_USER, spoken], "audios": ["/a"]}))
    assert found.target == Message("assistant", "Yes.", AudioClip("/a")) and len(found.messages) == 1
    same = {"messages": [TEXT_USER, {"role": "assistant", "content": "Yes. "}], "sft_target_text": "Yes."}
    (found,) = ready(source(tmp_path / "d.jsonl", same))
    assert found.target == Message("assistant", "Yes.") and len(found.messages) == 1


def test_the_older_record(tmp_path: Path) -> None:
    record = {
        "question_text": "And you?", "question_audio": "q.wav", "history": "[USER] Hi. [ASSISTANT] Hello.",
        "answer_text": "Fine.", "answer_audio_path": "a.wav",
    }  # fmt: skip
    plain = {"question_text": "Why?", "history_text": "We spoke of it.", "sft_target_text": "So."}
    first, second = ready(source(tmp_path / "d.jsonl", record, plain))
    assert first.messages == (
        Message("user", "Hi."), Message("assistant", "Hello."),
        Message("user", "And you?", AudioClip(f"{tmp_path}/q.wav")),
    )  # fmt: skip
    assert first.target == Message("assistant", "Fine.", AudioClip(f"{tmp_path}/a.wav"))
    assert first.metadata == {"question_text": "And you?", "task_type": "s2s"}
    assert [turn.text for turn in second.messages] == ["We spoke of it.", "Why?"]
    assert second.metadata["task_type"] == "text"


BAD = [
    ({"messages": []}, "at least 1 item"),
    ({"messages": [{"role": "robot", "content": "a"}]}, r"messages\.0\.role"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"messages\.0\.content"),
    ({"messages": [LUKE]}, "no message of the user"),
    ({"messages": [ASKED]}, r"1 <\|audio\|> in the messages and 0 audios"),
    ({"messages": [TEXT_USER], "audios": ["a"]}, r"0 <\|audio\|> in the messages and 1 audios"),
    ({"messages": [{"role": "user", "content": "<|audio|><|audio|>"}], "audios": ["a", "b"]}, "split it"),
    ({"messages": [{"role": "user", "content": "<|audio|> why?"}], "audios": ["a"]}, r"text behind <\|audio\|>"),
    ({"messages": [ASKED], "audios": [" "]}, "its path in audios is empty"),
    ({**S2S, "messages": [TEXT_USER], "audios": []}, "task_type is s2s, and the user is not heard"),
    ({**S2S, "sft_target_audio": None}, "task_type is s2s, and the target has no sound"),
    ({**S2S, "task_type": "asr"}, "task_type is asr, and the target has sound"),
    ({**S2S, "task_type": "chat"}, "task_type: Input should be"),
    ({**S2S, "sft_target_text": 3}, "sft_target_text"),
    ({**S2S, "messages": [ASKED, {"role": "assistant", "content": "Else."}]}, "not sft_target_text"),
    ({"messages": [TEXT_USER, *[{"role": "assistant", "content": "a"}] * 2]}, "several of the assistant"),
    ({"answer_text": "a"}, "no message of the user"),
    ([], "not an object"),
]


@pytest.mark.parametrize(("record", "complaint"), BAD)
def test_what_the_research_code_leaves_out_is_an_error(tmp_path: Path, record: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        ready(source(tmp_path / "d.jsonl", S2S, record))
    assert caught.value.message.startswith(f"{tmp_path}/d.jsonl:2: ") and "on_bad" in caught.value.hint


def test_records_are_left_out_only_where_the_recipe_says_so_and_counted(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    dropping = source(tmp_path / "d.jsonl", S2S, *(record for record, _ in BAD), on_bad="drop")
    dropping.prepare(lambda what, done, total: said.append((what, done, total)))
    assert len(dropping) == 1
    assert said == [(f"reading: {len(BAD)} of {len(BAD) + 1} records left out, as the recipe says", 19, 19)]
    text = {"messages": [TEXT_USER], "sft_target_text": "a"}
    kept = source(tmp_path / "d.jsonl", S2S, text, task_types=["text"])
    assert [each.id for each in ready(kept)] == ["line-2"] == [each.id for each in streamed(_streaming(kept))]
    assert [found is None for _, found in kept.inspect()] == [True, False]
    (tmp_path / "d.jsonl").write_text("{")
    with pytest.raises(DataError, match="not a JSON object"):
        ready(ResearchJsonl(ResearchJsonlParams(path=str(tmp_path / "d.jsonl"), on_bad="drop"), seed=0))
    with pytest.raises(ValidationError, match="a stream cannot say"):
        ResearchJsonlParams(path="d.jsonl", on_bad="drop", streaming=True)


def _streaming(source: ResearchJsonl) -> ResearchJsonl:
    return ResearchJsonl(source.params.model_copy(update={"streaming": True}), seed=0)


def test_all_that_is_wrong_is_found(tmp_path: Path) -> None:
    record = {**S2S, "messages": [LUKE, {"role": "user", "content": "<|audio|> now"}], "sft_target_audio": None}
    (only,) = [[each for _, each in source(tmp_path / "d.jsonl", record).inspect()]]
    words = [each.message.partition("d.jsonl:1: ")[2] for each in only if isinstance(each, DataError)]
    assert [word.split(":")[0] for word in words] == ["messages.1", "task_type is s2s, and the target has no sound"]


def test_the_other_containers(tmp_path: Path) -> None:
    """A JSON list, and a folder of `save_to_disk`, in which every row has every field."""
    expected = ready(source(tmp_path / "d.jsonl", S2S))
    (tmp_path / "d.json").write_text(json.dumps([S2S]))
    listed = ResearchJsonl(ResearchJsonlParams(path=str(tmp_path / "d.json")), seed=0)
    assert [each.messages for each in ready(listed)] == [each.messages for each in expected]
    table = pyarrow.Table.from_pylist([{**S2S, "rejected_text": None}])
    with ipc.new_stream(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (saved,) = ready(ResearchJsonl(ResearchJsonlParams(path=str(tmp_path)), seed=0))
    assert (saved.messages, saved.target) == (expected[0].messages, expected[0].target)
    assert saved.metadata == expected[0].metadata
    for content, complaint in (("{}", "not a list of records"), ("[", "not a JSON file")):
        (tmp_path / "d.json").write_text(content)
        with pytest.raises(DataError, match=complaint):
            ready(listed)
