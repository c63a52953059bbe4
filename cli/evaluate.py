"""`wavalign evaluate`: a model's answers to a benchmark, scored, and two models compared."""

import math
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from wavalign.errors import UsageError

from . import completion
from .console import Format, output_format, say, say_json, say_table, status
from .meter import Meter
from .options import FormatOption, SetOption, compiled

if TYPE_CHECKING:
    from wavalign.engine.benchmarks.comparing import Comparison
    from wavalign.engine.benchmarks.evaluating import Asked, Evaluated
    from wavalign.engine.benchmarks.values import Value
    from wavalign.engine.compile.plan import Plan

EXAMPLES = """Examples:

wavalign evaluate runs/my-run/20260101-120000-abc123 --on voicebench/mmsu

wavalign evaluate exported --recipe my.yaml --on questions.jsonl --limit 200

wavalign evaluate RUN --against OTHER_RUN --on voicebench/openbookqa

wavalign evaluate --compare evaluations/a/mmsu evaluations/b/mmsu
"""


REASONS = 3
"""Why answers have no number: so many reasons are printed."""


@final
class Suite(StrEnum):
    """Whose file it is."""

    VOICEBENCH = "voicebench"
    ULTRAEVAL = "ultraeval"
    VSTYLE = "vstyle"
    DIALOGUES = "dialogues"


@final
class TaskName(StrEnum):
    """What answers are judged by."""

    CHOICE = "choice"
    YES_NO = "yes_no"
    REFERENCE = "reference"
    TRANSCRIPT = "transcript"
    REFUSAL = "refusal"
    OPEN = "open"
    INSTRUCTIONS = "instructions"
    STYLE = "style"


@final
class Modality(StrEnum):
    """How questions are asked."""

    AUDIO = "audio"
    TEXT = "text"


ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE|RUN|MODEL",
        help="A recipe, the folder of a run (or of a stage or checkpoint in it), or an exported model's.",
        autocompletion=completion.recipes_or_data,
    ),
]
OnOption = Annotated[
    str | None, typer.Option("--on", metavar="DATA", help="The questions: a file, a pattern, a folder or an address.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Where answers go; omitted, evaluations/MODEL/SUITE-SUBSET."),
]
AsOption = Annotated[Suite | None, typer.Option("--as", help="Whose file it is; omitted, told by its columns.")]
AgainstOption = Annotated[
    str | None,
    typer.Option("--against", metavar="RECIPE|RUN|MODEL", help="A second model on the same questions, compared."),
]
CompareOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--compare", metavar="OUT_A OUT_B", help="Compare two evaluations that are there; answers nothing."),
]


SubsetOption = Annotated[
    str | None, typer.Option("--subset", metavar="NAME", help="What the suite calls it, e.g. mmsu; from the path.")
]
TaskOption = Annotated[
    TaskName | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help=f"What answers are judged by ({', '.join(TaskName)}); from the data.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE", help="For a model's folder: architecture, codec and sampling."),
]
StageOption = Annotated[
    str | None, typer.Option("--stage", metavar="NAME", help="Which stage's model; omitted, the last one's.")
]
AtOption = Annotated[
    str | None, typer.Option("--at", metavar="CHECKPOINT", help="Of a run: this checkpoint, e.g. step-40.")
]
JudgeOption = Annotated[
    str | None, typer.Option("--judge", metavar="REWARD", help="A reward of the recipe judges every answer, too.")
]
HearOption = Annotated[bool, typer.Option("--hear", help="Let Whisper listen to the answers, too.")]
ModalityOption = Annotated[Modality, typer.Option("--modality", help="How questions are asked.")]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many questions, spread evenly.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the draws, where answers are not greedy.")]
TogetherOption = Annotated[int, typer.Option("--together", min=1, metavar="N", help="Questions answered together.")]
LongestOption = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, metavar="N", help="Longest answer; omitted, the recipe's.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace other answers in the folder.")]


def evaluate(
    model: ModelArgument = None,
    on: OnOption = None,
    out: OutOption = None,
    as_: AsOption = None,
    subset: SubsetOption = None,
    task: TaskOption = None,
    against: AgainstOption = None,
    compare: CompareOption = None,
    recipe: RecipeOption = None,
    stage: StageOption = None,
    at: AtOption = None,
    judge: JudgeOption = None,
    hear: HearOption = False,
    modality: ModalityOption = Modality.AUDIO,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    together: TogetherOption = 16,
    max_new_tokens: LongestOption = None,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Answer a benchmark's questions and score the answers.

    Reads files of VoiceBench, UltraEval-Audio, VStyle and dialogues; writes answers as the suite's own scorers read
    them. An evaluation that was interrupted goes on where it stopped. What needs a judge has no number without one.
    """
    output_format.set(format_)
    if compare is not None:
        if model is not None or on is not None or against is not None:
            raise UsageError("--compare takes two folders and nothing else", hint="leave out model, --on and --against")
        _show_comparison(_compared(*compare), format_)
        return
    if model is None or on is None:
        missing = "the model" if model is None else "--on DATA"
        raise UsageError(f"{missing} is missing", hint="wavalign evaluate RUN --on questions.jsonl")
    with status("loading the engine"):
        from wavalign.engine.benchmarks.evaluating import Asked  # brings torch, which no `--help` shall wait for

    asked = Asked(
        data=on, suite=as_, subset=subset, task=None if task is None else task.value, modality=modality,
        limit=limit, seed=seed, chunk=together, max_new_tokens=max_new_tokens, judge=judge, hear=hear,
        overwrite=overwrite,
    )  # fmt: skip
    job = _Job(asked, recipe=recipe, overrides=set_, stage=stage, at=at)
    if against is None:
        _show(job.run(model, out), format_)
    else:
        _both(job, model, against, out, form=format_)


def _both(job: "_Job", model: str, against: str, out: Path | None, *, form: Format) -> None:
    first, second = (None, None) if out is None else (out / "a", out / "b")
    a, b = job.run(model, first), job.run(against, second, first=False)
    if a.folder == b.folder:
        raise UsageError(
            f"both models would answer into {a.folder}", hint="--out FOLDER gives each a folder of its own in it"
        )
    _show_both(a, b, _compared(a.folder, b.folder), form)


@final
class _Job:
    """What is asked of each model."""

    def __init__(
        self, asked: "Asked", *, recipe: str | None, overrides: list[str] | None, stage: str | None, at: str | None
    ) -> None:
        self._asked, self._overrides, self._stage, self._at = asked, overrides, stage, at
        self._recipe = None if recipe is None else compiled(recipe, overrides)

    def run(self, model: str, out: Path | None, *, first: bool = True) -> "Evaluated":
        """Evaluate one model; `stage` and `at` are of the first."""
        from wavalign.engine import api  # brings torch, which no `--help` shall wait for

        found = self._found(model)
        stage, at = (self._stage, self._at) if first else (None, None)
        if not isinstance(found, Path) and (at is not None or self._recipe is not None):
            raise UsageError("--at and --recipe go with a folder, and a recipe was named", hint="leave them out")
        meter = Meter()
        try:
            return api.evaluate(
                found, replace(self._asked, out=out), recipe=self._recipe, stage=stage, at=at, watcher=meter
            )
        except KeyboardInterrupt:
            meter.message("interrupted: the same command goes on with the answers that are there")
            raise
        finally:
            meter.clear()

    def _found(self, model: str) -> "Plan | Path":
        place = Path(model)
        if place.is_dir():
            return place
        if not place.exists() and (place.is_absolute() or model.startswith(".") or model.endswith("/")):
            raise UsageError(f"there is no file and no folder {model}", hint="name a recipe, a run or a model")
        return compiled(model, self._overrides)


def _compared(a: Path, b: Path) -> "Comparison":
    from wavalign.engine import api  # brings torch, which no `--help` shall wait for

    return api.compare(a, b)


def _show(done: "Evaluated", form: Format) -> None:
    if form is not Format.TEXT:
        from wavalign.engine.benchmarks.evaluating import as_json  # comes with what was evaluated

        say_json(as_json(done))
        return
    bench = done.bench
    of = "" if done.answers == bench.total else f" of {bench.total}"
    say(f"{done.model}\n{bench.suite} {bench.subset}: {done.answers}{of} questions, {done.drawn} answered now")
    say_table(("value", "95 % interval", "answers", ""), [_row(each) for each in done.values])
    if done.spent:
        say("judge: " + ", ".join(f"{name} {value:g}" for name, value in done.spent.items()))
    for line in done.notes:
        say(f"not scored: {line}" if "for a judge" in line or "own rules" in line else f"note: {line}")
    if done.suite_file is not None:
        say(f"answers for the suite  {done.suite_file}")
    say(f"folder  {done.folder}")


def _row(value: "Value") -> tuple[str, str, str, str]:
    number, missing = _interval(value.value, value.low, value.high), ""
    if value.missing:
        reasons = [f"{count} without: {reason}" for reason, count in value.missing.items()]
        more = [f"and {len(reasons) - REASONS} further reasons"] if len(reasons) > REASONS else []
        missing = "; " + ", ".join([*reasons[:REASONS], *more])
    return value.name, number, str(value.count), f"{value.says}{missing}"


def _interval(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "none"
    return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _show_both(a: "Evaluated", b: "Evaluated", found: "Comparison", form: Format) -> None:
    if form is not Format.TEXT:
        from wavalign.engine.benchmarks.evaluating import as_json  # comes with what was evaluated

        say_json({"a": as_json(a), "b": as_json(b), "comparison": found.as_json()})
        return
    _show(a, form)
    say("")
    _show(b, form)
    say("")
    _show_comparison(found, form)


def _show_comparison(found: "Comparison", form: Format) -> None:
    if form is not Format.TEXT:
        say_json(found.as_json())
        return
    say(f"A  {found.a}\nB  {found.b}\n{found.common} questions both answered")
    if found.only_a or found.only_b:
        say(f"left out: {found.only_a} that A alone answered, {found.only_b} that B alone answered")
    rows = [
        (
            each.name,
            f"{each.a:.3f}",
            f"{each.b:.3f}",
            f"{each.wins / each.found.count:.0%} / {each.ties / each.found.count:.0%} / "
            f"{each.losses / each.found.count:.0%}",
            str(each.found.count),
            each.sentence("A", "B"),
        )
        for each in found.values
    ]
    if rows:
        say_table(("", "A", "B", "A better / equal / B better", "questions", ""), rows)
    for name, value in found.equal.items():
        say(f"{name}: the same on every question ({value:.3f})")
    for name in found.unpaired:
        say(f"{name}: no question has it on both sides")
    if rows:
        ways = dict.fromkeys(way for each in found.values for way in each.found.method.split("; "))
        say(f"p: {', '.join(ways)}; corrected for all values that differ (Holm)")
