"""`wavalign judge`: what a judge's scores are worth."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavalign.errors import UsageError

from .console import Format, aligned, note, output_format, say, say_json, status
from .options import FormatOption, RecipeArgument, SetOption, compiled

if TYPE_CHECKING:
    from wavalign.engine.run.judge_calibration import Outcome
    from wavalign.schema.calibration import Calibration, Estimate

app = typer.Typer(no_args_is_help=True, help="Compare judges with people.")
EXAMPLES = """Examples:

wavalign judge calibrate my.yaml --reward judge --on human.jsonl -o judge.json --report judge.html

wavalign judge calibrate my.yaml --reward judge --on human.jsonl --repeats 5 --by style
"""
BINS, BAR = 5, 24
"""Rows and cells of the picture."""


def calibrate(
    recipe: RecipeArgument,
    reward: Annotated[str, typer.Option("--reward", metavar="NAME", help="Which reward of the recipe is the judge.")],
    on: Annotated[str, typer.Option("--on", metavar="FILE", help="Answers with people's scores, JSONL.")],
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Whose reward; omitted, of the first stage with it.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=100, help="How often each answer is judged.")] = 3,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option("--scale", metavar="LOW HIGH", help="The people's scale; omitted, the reward's range."),
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="KEY", help="Break down by a key of the rows. Repeatable.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write what a recipe can name, as JSON.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a page, as HTML.")] = None,
    set_: SetOption = None,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Compare a judge (any reward of a recipe) with people who scored the same answers.

    Says how it agrees with them, with itself when it is asked again, and whether order or length move it; every number
    with a 95 % interval over prompts. See docs/calibration.md.
    """
    output_format.set(format_)
    for path in (output, report):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no such folder", hint="make it first")
    plan = compiled(recipe, set_)
    with status("loading the engine"):
        from wavalign.engine.feeding.ratings import read_ratings  # brings torch: `--help` shall not wait
        from wavalign.engine.report.judge_page import render_judge  # this too
        from wavalign.engine.run.judge_calibration import Calibrating, apart, calibrate_reward
        from wavalign.engine.state.files import write_text

    asked = Calibrating(reward, on, stage=stage, repeats=repeats, scale=scale, by=tuple(by or ()))
    rated = read_ratings(on if "://" in on else str(Path(on).expanduser()))
    found = calibrate_reward(plan, asked, rated, _progress if format_ is Format.TEXT else lambda *_: None)
    if output is not None:
        write_text(output, found.calibration.model_dump_json(indent=1) + "\n")
    if report is not None:
        write_text(report, render_judge(found.calibration, found.judged, apart(found)))
    if format_ is Format.JSON:
        say_json(found.calibration.model_dump(mode="json"))
        return
    for line in lines(found):
        say(line)
    for path in (output, report):
        if path is not None:
            note(f"written: {path}")


def _progress(what: str, done: int, total: int) -> None:
    if done in (0, total):
        note(f"{what}: {done}/{total}{' ...' if done < total else ''}")


def lines(found: "Outcome") -> list[str]:
    """A calibration for people."""
    made = found.calibration
    raters = f"{made.raters[0]}" if made.raters[0] == made.raters[1] else f"{made.raters[0]} to {made.raters[1]}"
    said = [
        f"{made.reward} ({made.judge.type}{', ' + made.judge.instrument if made.judge.instrument else ''}) "
        f"against people: {made.answers} answers to {made.prompts} prompts, {raters} raters each",
        _replied(made),
        "",
        *_table(made.statistics),
    ]
    if made.prompts_left_out:
        left = ", ".join(f"{count} ({reason})" for reason, count in made.prompts_left_out.items())
        said.append(f"prompts without a correlation of their own: {left}")
    for name, part in made.parts.items():
        said += ["", f"{name}:", *_table(part)]
    return [*said, "", *picture(found)]


def _replied(made: "Calibration") -> str:
    replies = made.replies
    text = f"asked {replies.asked} times: {replies.judged} values, {replies.failed} failures, {replies.absent} answers"
    text += " with nothing to score"
    text += "".join(f"\n  {count} times: {reason}" for reason, count in list(replies.reasons.items())[:BINS])
    counts = ", ".join(f"{name} {value:g}" for name, value in replies.counts.items())
    return f"{text}\n  the reward counted: {counts}" if counts else text


def _table(found: Mapping[str, "Estimate"]) -> list[str]:
    from wavalign.engine.report.judge_tables import SAYS  # brings numpy: `--help` shall not wait

    rows = [(*_numbers(found[name]), *words) for name, words in SAYS.items() if name in found]
    return aligned([(name, value, interval, count, of) for value, interval, count, name, of in rows])


def _numbers(found: "Estimate") -> tuple[str, str, str]:
    if found.value is None:
        return "-", "", f"n {found.count}"
    interval = "" if found.low is None or found.high is None else f"[{_fixed(found.low)}, {_fixed(found.high)}]"
    return _fixed(found.value), interval, f"n {found.count}"


def _fixed(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no minus before a zero


def picture(found: "Outcome") -> list[str]:
    """What people gave answers that the judge gave about the same, on the people's scale."""
    from wavalign.engine.report.judge_tables import bins  # as above

    low, high = found.calibration.scale
    said = [f"judge says      n   people gave   {low:g} {'.' * (BAR - len(f'{low:g}{high:g}'))} {high:g}"]
    for each in bins(found.judged, BINS):
        at = round((each.people - low) / (high - low) * BAR)
        said.append(f"{each.label:<12} {each.count:>4}   {each.people:>11.2f}   {' ' * at}o")
    return said
