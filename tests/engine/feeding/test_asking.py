"""What is asked, in a recipe's words: one text, or one for each side of a pair."""

import json
from pathlib import Path

import pytest

from tests.engine.step.test_openings import OPENINGS
from tests.toy.compiled import compiled, drop, problems, put
from tests.toy.live import live_stage, train
from wavalign.engine.feeding.asking import Asked, AskedBySide, asked, asking
from wavalign.errors import DataError
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import AudioClip, Dialogue, Message
from wavalign.plugins.data.jsonl import Jsonl, JsonlParams

SOUND = AudioClip("a.wav")


def dialogue(*messages: Message) -> Dialogue:
    return Dialogue("d", messages, Message("assistant", "four"), origin="x.jsonl:1")


def texts(found: Dialogue) -> list[tuple[str, str, bool]]:
    return [(each.role, each.text, each.audio is not None) for each in found.messages]


def test_words_stand_around_the_last_question() -> None:
    given = dialogue(Message("user", "hi"), Message("assistant", "yes"), Message("user", "two {x} two"))
    found = asked(given, "please say: {text} now")
    assert texts(found) == [
        ("user", "hi", False),
        ("assistant", "yes", False),
        ("user", "please say: two {x} two now", False),
    ]
    assert (found.id, found.target, found.origin) == (given.id, given.target, given.origin)


def test_around_sound_they_are_messages() -> None:
    spoken = dialogue(Message("system", "be kind"), Message("user", "two", SOUND))
    both = [("system", "be kind", False), ("user", "well:", False), ("user", "two", True), ("user", "now", False)]
    assert texts(asked(spoken, "well: {text} now")) == both
    assert texts(asked(spoken, "well: {text}")) == both[:3]


def test_nobody_asks() -> None:
    with pytest.raises(DataError, match=r"x\.jsonl:1: dialogue d: no user says anything"):
        asked(dialogue(Message("system", "be kind")), "{text}")


def pairs(folder: Path) -> DataSource:
    """A pair, a rejected answer alone, a chosen one alone."""
    ask = [{"role": "user", "text": "two"}]
    lines = [
        {"id": "a", "messages": ask, "chosen": {"text": "good"}, "rejected": {"text": "bad", "score": 1.0}},
        {"id": "b", "messages": ask, "rejected": {"text": "worse"}},
        {"id": "c", "messages": ask, "chosen": {"text": "better"}},
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Jsonl(JsonlParams(path=str(path)), seed=0)


def test_every_side_is_a_demonstration_in_its_own_words(tmp_path: Path) -> None:
    source = AskedBySide(pairs(tmp_path), {"chosen": "well {text}", "rejected": "badly {text}"})
    source.prepare(lambda *_: None)
    found = [source.record(index) for index in range(len(source))]
    said = [(each.id, each.messages[-1].text, each.target.text if each.target else "") for each in found]
    expected = [
        ("a/chosen", "well two", "good"),
        ("a/rejected", "badly two", "bad"),
        ("b/rejected", "badly two", "worse"),
        ("c/chosen", "well two", "better"),
    ]
    assert said == expected
    assert all(not each.targets and not each.members for each in found)
    assert list(source.reads()) == [str(tmp_path / "pairs.jsonl")]
    looked = AskedBySide(pairs(tmp_path), {"chosen": "well {text}"})
    assert [each.id for _, each in looked.inspect() if isinstance(each, Dialogue)] == ["a/chosen", "c/chosen"]


def test_one_text_keeps_pairs_together(tmp_path: Path) -> None:
    source = asking(pairs(tmp_path), "well {text}")
    assert isinstance(source, Asked)
    source.prepare(lambda *_: None)
    assert (len(source), source.record(1).members) == (3, (1,))
    assert source.record(0).messages[-1].text == "well two"
    assert source.record(0).scores == (None, 1.0)
    plain = pairs(tmp_path)
    assert asking(plain, None) is plain


def test_a_stream_is_asked_in_one_way(tmp_path: Path) -> None:
    path = str(tmp_path / "pairs.jsonl")
    pairs(tmp_path)
    streamed = Jsonl(JsonlParams(path=path, streaming=True), seed=0)
    source = Asked(streamed, "well {text}")
    source.prepare(lambda *_: None)
    stream = source.stream()
    assert stream is not None
    assert [each.dialogue.messages[-1].text for each in stream.open(0, ())] == ["well two"] * 3
    assert list(stream.shards()) == list(streamed.stream().shards())  # type: ignore[union-attr]
    with pytest.raises(DataError, match="cannot be asked for by side") as caught:
        AskedBySide(Jsonl(JsonlParams(path=path, streaming=True), seed=0), {"chosen": "{text}"}).prepare(
            lambda *_: None
        )
    assert "streaming: false" in caught.value.hint


def test_in_a_recipe(tmp_path: Path) -> None:
    """Both sides of toy pairs, asked as zero and as one more than what is asked."""
    sides = {"type": "toy_pairs", "ask": {"chosen": "{text} plus zero", "rejected": "{text} plus one"}}
    recipe = (
        OPENINGS,
        put("data.demonstrations", sides),
        put("batch.demonstrations", 72),
        put("objective.terms", {"hindsight": {"loss": "cross_entropy"}}),
        drop("objective.gate"),
    )
    plan = compiled(tmp_path, *recipe)
    live = live_stage(plan)
    assert live.feeds["demonstrations"].size == 72
    live.close()
    assert train(plan, steps=1)[0][0]["tokens/hindsight"] == 36 * (4 + 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("data.demonstrations", {"type": "toy_gold", "ask": "no place"}), "has {text} in it once"),
        (put("data.demonstrations", {"type": "toy_gold", "ask": {"best": "{text}"}}), "best"),
        (put("data.prompts", {"type": "toy_gold", "ask": {"chosen": "{text}"}}), "asked in one way"),
    ],
)
def test_words_without_a_place_and_sides_of_prompts(tmp_path: Path, change: object, said: str) -> None:
    assert any(said in problem.message or said in problem.path for problem in problems(tmp_path, change))  # type: ignore[arg-type]
