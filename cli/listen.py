"""`wavalign listen`: text and sound of what a run's model said."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wavalign.errors import UsageError

from .console import Format, note, output_format, say, say_json, status
from .options import FormatOption

if TYPE_CHECKING:
    from wavalign.engine.report.cards import Card, Given
    from wavalign.engine.report.data import Measure, Sample
    from wavalign.engine.report.listening import Chosen
    from wavalign.plugins.batch import Waveform

EXAMPLES = """Examples:

wavalign listen runs/my-run/20260101-120000-abc123

wavalign listen RUN --before-after --page samples.html

wavalign listen RUN --split train --step 40 --worst reward --play
"""
PLAYERS: tuple[tuple[str, ...], ...] = (
    ("paplay",),
    ("afplay",),
    ("aplay", "-q"),
    ("play", "-q"),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"),
    ("mpv", "--no-video", "--really-quiet"),
)
"""Programs that play a WAV file, the first that is installed is taken."""

SplitOption = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="A held-out split, or train; omitted, all held-out ones.")
]
StageOption = Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Of this stage.")]
StepOption = Annotated[int | None, typer.Option("--step", metavar="N", help="After so many steps; omitted, the last.")]
ItemOption = Annotated[
    int | None, typer.Option("--item", metavar="N", help="Place in the split; in training, which prompt of the step.")
]
DialogueOption = Annotated[str | None, typer.Option("--dialogue", metavar="ID", help="The answers to this dialogue.")]
WorstOption = Annotated[
    str | None, typer.Option("--worst", metavar="NAME", help="The lowest first, by `reward`, a reward or a value.")
]
BestOption = Annotated[str | None, typer.Option("--best", metavar="NAME", help="The highest first, likewise.")]
BothOption = Annotated[bool, typer.Option("--before-after", help="The first and the last measurement side by side.")]
CountOption = Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="At most so many.")]
PlayOption = Annotated[bool, typer.Option("--play", help="Play them, with a player that is installed.")]
PageOption = Annotated[
    Path | None, typer.Option("--page", metavar="FILE", help="Write them as one HTML file with players instead.")
]


def listen(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or an evaluation's.")],
    split: SplitOption = None,
    stage: StageOption = None,
    step: StepOption = None,
    item: ItemOption = None,
    dialogue: DialogueOption = None,
    worst: WorstOption = None,
    best: BestOption = None,
    before_after: BothOption = False,
    count: CountOption = 8,
    play: PlayOption = False,
    page: PageOption = None,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show what a run's model said, written and heard.

    The answers that the run kept, with rewards and verdicts and a drawing of their sound; as a page, or played.
    """
    output_format.set(format_)
    if worst is not None and best is not None:
        raise UsageError("--worst and --best are two orders", hint="name one")
    with status("reading the run"):
        from wavalign.engine.report.data import read_run  # brings the report, which no `--help` shall wait for
        from wavalign.engine.report.evaluations import is_evaluation, read_evaluation
        from wavalign.engine.report.listening import Choice, choose, write_page

        found = read_evaluation(run) if is_evaluation(run) else read_run(run)
        choice = Choice(
            split=split, stage=stage, step=step, item=item, dialogue=dialogue, worst=worst, best=best,
            both=before_after, count=count,
        )  # fmt: skip
        chosen = choose(found, choice)
    if format_ is not Format.TEXT:
        say_json([_as_json(card) for card in chosen.cards])
    elif page is None:
        _show(chosen, play=_player() if play else None)
    if page is not None:
        written = write_page(found, chosen, page)
        if format_ is Format.TEXT:
            say(str(written))


def _show(chosen: "Chosen", play: Sequence[str] | None) -> None:
    say(chosen.says)
    for card in chosen.cards:
        say("")
        for line in _lines(card, chosen):
            say(line)
        for path in _paths(card) if play is not None else ():
            note(f"playing {path}")
            subprocess.run([*(play or ()), str(path)], check=False)
    if chosen.left_out:
        note(f"{chosen.left_out} more; --count shows more")


def _player() -> list[str] | None:
    """The player that is installed; a line says it where there is none."""
    for name, *options in PLAYERS:
        where = shutil.which(name)
        if where is not None:
            return [where, *options]
    note(f"no player is installed here (looked for {', '.join(name for name, *_ in PLAYERS)}); --page FILE has players")
    return None


def _lines(card: "Card", chosen: "Chosen") -> Iterator[str]:
    """One question with its answers."""
    from wavalign.engine.report.sound import SoundBox  # comes with the report

    box, shown = SoundBox(), card.any
    sample = shown.sample
    paths = [None if sample is None else sample.question_audio, *(each and each.audio for each in card.answers)]
    paths.append(None if sample is None else sample.reference_audio)
    clips = [box.read(path) for path in paths]
    longest = max((clip.seconds for clip in clips if clip is not None), default=1.0)
    place = "" if sample is None else _place(sample)
    yield f"{card.split}{place}  {card.dialogue}" + (f"  [{'; '.join(card.reasons)}]" if card.reasons else "")
    yield from _said("question", shown.question or "(spoken)", clips[0], paths[0], longest)
    for column, given, clip in zip(chosen.columns, card.answers, clips[1:-1], strict=True):
        if given is not None:
            cut = " (cut off)" if given.finished is False else ""
            title = column.title.lower()
            yield from _said(title, (given.text or "(no text)") + cut, clip, given.audio, longest)
            yield from _judged(given, chosen.measures)
    if shown.reference is not None or clips[-1] is not None:
        yield from _said("reference", shown.reference or "(no text)", clips[-1], paths[-1], longest)
    yield from (f"  {what}" for what in box.unreadable)


def _place(sample: "Sample") -> str:
    number = sample.group if sample.split == "train" else sample.item
    if sample.stage == "evaluate" and sample.step == 0:
        return f", item {number}"
    return f", step {sample.step}" + (
        "" if number is None else f", {'prompt' if sample.split == 'train' else 'item'} {number}"
    )


def _said(title: str, text: str, clip: "Waveform | None", path: Path | None, longest: float) -> Iterator[str]:
    from wavalign.engine.report.envelope import WIDTH, envelope  # comes with the report

    yield f"  {title:<10} {text}"
    if clip is not None:
        plain = "utf" not in (sys.stdout.encoding or "").lower()
        drawn = envelope(clip.samples, clip.seconds / longest, plain=plain)
        yield f"  {'':<10} {drawn:<{WIDTH}} {clip.seconds:.1f} s  {path}"


def _judged(given: "Given", measures: "dict[str, Measure] | Any") -> Iterator[str]:
    """What was heard, rewards and verdicts."""
    from wavalign.engine.report.cards import mains, verdict  # comes with the report
    from wavalign.engine.report.plots import number
    from wavalign.engine.report.sides import scores

    heard = given.shown.get("heard")
    if isinstance(heard, str):
        yield f"  {'':<10} heard: {heard or '(nothing)'}"
    if given.sample is not None and (found := scores(given.sample)):
        said = [
            f"{each.name} {number(each.value)}" if each.value is not None else f"{each.name} none ({each.reason})"
            for each in found
        ]
        yield f"  {'':<10} {'  '.join(said)}"
    words = []
    for name, value in mains(given.values).items():
        told = verdict(value, measures.get(name))
        if value is not None:
            words.append(f"{name} {number(value) if told is None else 'right' if told else 'wrong'}")
    if words:
        yield f"  {'':<10} {'  '.join(words)}"


def _paths(card: "Card") -> list[Path]:
    """Sound in the order in which it is played: question, answers, reference."""
    sample = card.any.sample
    found = [None if sample is None else sample.question_audio, *(each and each.audio for each in card.answers)]
    found.append(None if sample is None else sample.reference_audio)
    return [path for path in found if path is not None and path.is_file()]


def _as_json(card: "Card") -> dict[str, Any]:
    from wavalign.engine.report.listening import values_of  # comes with the report

    shown = card.any
    return {
        "split": card.split,
        "dialogue": card.dialogue,
        "question": shown.question,
        "reference": shown.reference,
        "reasons": list(card.reasons),
        "answers": [
            None
            if each is None
            else {
                "step": each.step,
                "text": each.text,
                "finished": each.finished,
                "values": values_of(each),
                "details": dict(each.shown),
                "audio": None if each.audio is None else str(each.audio),
            }
            for each in card.answers
        ],
    }
