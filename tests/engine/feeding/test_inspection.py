"""What `data check` finds: columns, and every problem of every row with its place."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
import pytest
import soundfile

from wavalign.engine.feeding.inspection import ColumnLook, DataLook, Heading, Spread, look_at
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Waveform
from wavalign.plugins.data.jsonl import Jsonl, JsonlParams
from wavalign.schema.base import Params


@final
class Listed(DataSource):
    """Dialogues, errors and gaps as given, at `f:1`, `f:2`, ..."""

    def __init__(self, *rows: Dialogue | DataError | None, name: str = "f") -> None:
        super().__init__(Params(), seed=0)
        self.rows, self.name = rows, name

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        raise AssertionError("looking comes instead of preparing")

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Dialogue:
        raise NotImplementedError

    def inspect(self) -> Iterator[tuple[str, Dialogue | DataError | None]]:
        yield from ((f"{self.name}:{number}", row) for number, row in enumerate(self.rows, 1))


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., AudioClip]:
    def make(name: str, seconds: float = 0.1, rate: int = 8000, channels: int = 1, level: float = 0.5) -> AudioClip:
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, np.full((int(seconds * rate), channels), level), rate)
        return AudioClip(str(path))

    return make


def asked(
    name: str, text: str = "", audio: AudioClip | None = None, target: Message | None = None, **metadata: object
) -> Dialogue:
    return Dialogue(name, (Message("user", text, audio),), target, metadata)


def look(*headings: tuple[str, DataSource], limit: int | None = None, sounds: bool = True) -> DataLook:
    return look_at(
        [Heading(name, [("f", source)], imitated=name.startswith("demonstrations")) for name, source in headings],
        limit=limit,
        sounds=sounds,
    )


def column(found: DataLook, name: str, heading: int = 0) -> ColumnLook:
    (only,) = [each for each in found.headings[heading].columns if each.name == name]
    return only


def test_columns_are_counted(clip: Callable[..., AudioClip]) -> None:
    said = Message("assistant", "yes", clip("a", 0.2, 16_000))
    rows = [
        asked("1", "ab", clip("q", 0.1), said, task_type="s2s", x=None),
        asked("2", "abcd", clip("r", 0.3, channels=2), Message("assistant", "no"), task_type="asr"),
        asked("3", "", clip("s", 0.5)),
        asked("4", "abcdef"),
    ]
    found = look(("prompts", Listed(*rows, None)))
    assert found.problems == ()
    (heading,) = found.headings
    assert (heading.records, heading.bad, heading.left_out) == (4, 0, 1)
    text, sound = column(found, "user.text"), column(found, "user.audio")
    assert (text.present, text.missing, text.unit) == (3, 1, "characters")
    assert text.spread is not None and text.spread.p95 == pytest.approx(5.8)  # between 4 and 6, nine tenths up
    assert replace(text.spread, p95=0.0) == Spread(3, 2, 4, 0, 6, 12)
    assert (sound.present, sound.missing) == (3, 1)
    assert sound.spread is not None and sound.spread.total == pytest.approx(0.9)
    assert (sound.rates, sound.channels) == ({8000: 3}, {1: 2, 2: 1})
    assert column(found, "target.audio").rates == {16_000: 1}
    assert (column(found, "metadata.task_type").present, column(found, "metadata.x").present) == (2, 0)
    assert heading.roles == {"user": 4, "target": 2} and heading.tasks == {"s2s": 1, "asr": 1}
    assert heading.notes == (
        "1 of 2 targets have no sound", "2 of 4 records have no target",
        "sound comes at several rates; it is resampled to the codec's when it is read",
    )  # fmt: skip
    assert [each.name for each in heading.columns] == [
        "user.text", "user.audio", "target.text", "target.audio", "metadata.task_type", "metadata.x",
    ]  # fmt: skip


def test_every_problem_is_named_with_its_place(tmp_path: Path, clip: Callable[..., AudioClip]) -> None:
    torn = AudioClip(str(tmp_path / "torn.wav"))
    Path(torn.url).write_bytes(b"RIFF")
    rows = (
        asked("1", "a", torn, Message("assistant", "b", AudioClip(f"{tmp_path}/none.wav"))),
        DataError("f:2: messages: Field required", hint="write it"),
        DataError("f:2: target: too much", hint="write less"),
        asked("1", "c", clip("ok"), Message("assistant", "d")),
        asked("5", "e", clip("ok")),
    )
    found = look(("demonstrations", Listed(*rows)))
    assert [each.message.partition(f"{tmp_path}/")[0] for each in found.problems] == [
        "f:1: user.audio: ", "f:1: target.audio: ", "f:2: messages: Field required", "f:2: target: too much",
        "f:4: id '1' was given at f:1 already", "f:5: there is no target to imitate",
    ]  # fmt: skip
    assert all(each.hint and each.heading == "demonstrations" for each in found.problems)
    silent = look(("demonstrations", Listed(*rows)), sounds=False)
    assert [each.where for each in silent.problems] == ["f:2", "f:3", "f:4", "f:5"]


def test_a_source_that_cannot_be_opened_is_a_problem_among_others() -> None:
    @final
    class Gone(DataSource):
        def prepare(self, progress: Callable[[str, int, int], None]) -> None:
            raise DataError("gone.jsonl: no such file", hint="check the path")

        def __len__(self) -> int:
            return 0

        def record(self, index: int) -> Dialogue:
            raise NotImplementedError

    found = look(("prompts", Gone(Params(), seed=0)), ("demonstrations", Listed(asked("1", "a"))))
    assert [each.message for each in found.problems] == [
        "gone.jsonl: no such file", "f:1: there is no target to imitate",
    ]  # fmt: skip


def test_a_source_with_an_index_is_looked_at_by_it() -> None:
    @final
    class Indexed(DataSource):
        def prepare(self, progress: Callable[[str, int, int], None]) -> None:
            progress("reading", 3, 3)

        def __len__(self) -> int:
            return 3

        def record(self, index: int) -> Dialogue:
            if index == 1:
                raise DataError("bad", hint="")
            return asked(str(index), "a")

    found = look(("prompts", Indexed(Params(), seed=0)))
    assert [each.where for each in found.problems] == ["record 1"]
    assert (found.headings[0].records, found.headings[0].bad) == (2, 1)


def test_prompts_of_the_evaluation_that_are_trained_on(clip: Callable[..., AudioClip]) -> None:
    """Equal words and equal sound, under whatever name; equal words in another voice are noted only."""
    one, copy, other = clip("one"), clip("copy"), clip("other", level=0.25)
    prompts = Listed(asked("a", "why", one), asked("b", "how", one), asked("c", "why", one))
    held_out = Listed(
        asked("x", "why", copy), asked("y", "why", other), asked("z", "what", one), asked("w", "how"), name="g"
    )
    found = look(("prompts", prompts), ("evaluation.heldout", held_out))
    assert [(each.heading, each.message) for each in found.problems] == [
        ("evaluation.heldout", "g:1: the same prompt is trained on: prompts, f:1")
    ]
    assert found.headings[0].notes == ("prompts that stood before: 1",)
    assert found.headings[1].notes == ("the words of 2 of its prompts stand in prompts too",)


def test_a_limit_is_said() -> None:
    found = look(("prompts", Listed(*(asked(str(i), "a" * i) for i in range(1, 9)))), limit=3)
    assert found.headings[0].records == 3 and "f: the first 3 records" in found.headings[0].notes
    assert look(("prompts", Listed(asked("1", "a"))), limit=1).headings[0].notes == ()


def test_tokens_are_counted_and_what_cannot_be_counted_is_a_problem() -> None:
    def count(dialogue: Dialogue) -> dict[str, int]:
        if dialogue.id == "2":
            raise DataError("<|audio|> in the text", hint="take it out")
        return {"prompt": 4, "target": 7}

    rows = Listed(*(asked(name, name) for name in "123"))
    found = look_at([Heading("prompts", [("f", rows)], count)], limit=None, sounds=True)
    assert column(found, "target.tokens").spread == Spread(2, 7, 7, 7, 7, 14)
    assert [each.message for each in found.problems] == ["f:2: as tokens: <|audio|> in the text"]


def test_silence_and_dialogues_without_a_question_are_mentioned(tmp_path: Path) -> None:
    audio.write(Waveform(np.zeros(16_000, np.float32), 16_000), tmp_path / "s.wav")
    (tmp_path / "noise.wav").write_bytes(b"not a sound")
    lines = [
        '{"messages": [{"role": "assistant", "text": "a"}], "target": {"audio": "s.wav"}}',
        '{"messages": [{"role": "user", "audio": "noise.wav"}]}',
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = Jsonl(JsonlParams(path=str(tmp_path / "d.jsonl")), seed=0)
    look = look_at([Heading("data", [("d", source)])], limit=None, sounds=True)
    notes = " ".join(look.headings[0].notes)
    assert "silent: 1, first" in notes and "without a message of the user: 1, first" in notes
    assert [each for each in look.problems if "BytesIO" in each.message] == []
    assert any("noise.wav" in each.message for each in look.problems)


def test_what_a_decoder_says_is_noted_and_kept_from_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """libmpg123 writes to descriptor 2 itself when it meets bytes that are no frame."""
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    soundfile.write(tmp_path / "q.mp3", samples, 16_000, format="MP3")
    content = bytearray((tmp_path / "q.mp3").read_bytes())
    content[864:868] = b"\x16\xf3\x58\xc4"
    (tmp_path / "q.mp3").write_bytes(content)
    found = look(("prompts", Listed(asked("a", "one", AudioClip(str(tmp_path / "q.mp3"))))))
    (note,) = [each for each in found.headings[0].notes if "decoder" in each]
    assert note.startswith(f"sound files that their decoder finds odd: 1, first {tmp_path / 'q.mp3'}: ")
    assert capfd.readouterr() == ("", "")
