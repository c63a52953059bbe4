"""Calibrations that rewards name: read, held against the reward they are to correct, turned into what a run uses."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import fsspec
from pydantic import ValidationError

from wavalign.engine.compile.plan import StagePlan, Warned
from wavalign.engine.compile.reward_checks import Noted
from wavalign.plugins.api import Reward
from wavalign.plugins.files import digest
from wavalign.plugins.guard import Guard, origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.calibration import Calibration, CalibrationSection, Correction, Identity
from wavalign.schema.marks import Path as TreePath
from wavalign.schema.reward import RewardSection
from wavalign.schema.shapes import Option, is_path, leaves
from wavalign.schema.stage import Stage
from wavalign.storage import strict_json

FEWEST = {"affine": 20, "isotonic": 50, "none": 2}
"""Answers from which a correction is made of a calibration."""
MAKE = "wavalign judge calibrate RECIPE --reward NAME --on SCORES.jsonl -o FILE makes one"


def corrections(stage: Stage, registry: Registry, plugins: tuple[str, ...]) -> Iterator[tuple[str, Correction | Noted]]:
    """By reward that names a calibration, what corrects it, or why it cannot."""
    for name, reward in stage.rewards.items():
        section = reward.calibration
        if section is None or reward.type not in registry.types("reward"):
            continue
        found = _read(section, name)
        if isinstance(found, Calibration):
            problem = _problem(found, section, name, identity(reward, registry, plugins))
            yield name, _correction(found, section) if problem is None else problem
        else:
            yield name, found


def identity(reward: RewardSection, registry: Registry, plugins: tuple[str, ...]) -> Identity:
    """Which judge a reward's section makes: its type and options, the content of files that these name, its code."""
    plugin = registry.get("reward", reward.type)
    assert issubclass(plugin, Reward)
    options = _without(reward.params, plugin.free_options)
    with Guard(origin_of(plugin, "reward", reward.type), "instrument"):
        said = plugin.instrument(plugin.Params.model_validate(dict(reward.params)))
    file = origin_of(plugin, "reward", reward.type).file
    code = [digest(each) for each in plugins if Path(each).resolve() == Path(file).resolve()] if file else []
    content = {
        "type": reward.type,
        "instrument": said,
        "options": _with_contents(options, (), _digests(plugin, options)),
        "code": code,
    }
    found = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Identity(type=reward.type, fingerprint=found, instrument=said if isinstance(said, str) else "")


def weak_calibrations(plan: StagePlan) -> Iterator[Warned]:
    """A warning for every calibration whose judge is not shown to agree with people at all."""
    for name, reward in plan.stage.rewards.items():
        found = _read(reward.calibration, name) if reward.calibration is not None else None
        if (
            isinstance(found, Calibration)
            and reward.calibration is not None
            and reward.calibration.correction != "none"
        ):
            measure = _measure(reward.calibration)
            estimate = found.statistics[measure]
            if estimate.low is None or estimate.low <= 0:
                shown = "has no interval" if estimate.low is None else f"may be as low as {estimate.low:.2f}"
                message = f"the calibration's {measure} correlation with people {shown}"
                hint = "have more answers scored by people before you learn from this reward"
                yield Warned(path=f"rewards.{name}.calibration.file", message=message, hint=hint)


def _read(section: CalibrationSection, name: str) -> Calibration | Noted:
    path = ("rewards", name, "calibration", "file")
    try:
        with fsspec.open(section.file, "rb") as file:
            return Calibration.model_validate(strict_json.parse(file.read()))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        return "bad_value", f"{section.file} is no calibration: {place}: {first['msg']}", path, MAKE
    except (OSError, ValueError, ImportError) as error:
        return "bad_value", f"{section.file}: the calibration cannot be read: {error}", path, MAKE


def _measure(section: CalibrationSection) -> str:
    return "spearman" if section.correction == "isotonic" else "pearson"


def _problem(found: Calibration, section: CalibrationSection, name: str, ours: Identity) -> Noted | None:
    """Why a calibration cannot correct a reward."""
    path = ("rewards", name, "calibration", "file")
    if found.judge.type != ours.type or found.judge.fingerprint != ours.fingerprint:
        theirs = "another type" if found.judge.type != ours.type else "other options, files or code"
        message = f"{section.file} was made with a judge of {theirs}: {_said(found.judge)}; this one is {_said(ours)}"
        return "conflict", message, path, "calibrate this very reward again, or set it as it was calibrated"
    least = FEWEST[section.correction]
    if found.answers < least:
        message = f"{section.file} has {found.answers} answers, too few for {section.correction}, which needs {least}"
        return "bad_value", message, path, "have more answers scored by people"
    if section.correction == "none":
        if found.noise is not None:
            return None
        message = f"{section.file} says nothing that `correction: none` uses: nothing was asked twice"
        return "bad_value", message, path, "calibrate with --repeats 3"
    measure = _measure(section)
    value = found.statistics[measure].value if measure in found.statistics else None
    made = found.affine if section.correction == "affine" else found.isotonic
    if value is None or value <= 0 or made is None or (found.affine is not None and found.affine.slope <= 0):
        shown = "none" if value is None else f"{value:.2f}"
        message = f"{section.file}: the judge does not rise with people's scores ({measure} correlation {shown})"
        return "bad_value", message, path, "no correction mends a judge that is not shown to agree with people"
    return None


def _correction(found: Calibration, section: CalibrationSection) -> Correction:
    if section.correction == "none":
        return Correction(noise=found.noise)
    line = found.affine if section.correction == "affine" else None
    curve = found.isotonic if section.correction == "isotonic" else None
    return Correction(line=line, curve=curve, scale=found.scale, noise=found.noise)


def _said(judge: Identity) -> str:
    about = f", {judge.instrument}" if judge.instrument else ""
    return f"{judge.type}{about} ({judge.fingerprint})"


def _without(options: Mapping[str, Any], free: Collection[str], prefix: str = "") -> dict[str, Any]:
    """The options but those that change no value."""
    kept: dict[str, Any] = {}
    for key, value in options.items():
        path = f"{prefix}{key}"
        if any(fnmatchcase(path, pattern) and path.count(".") == pattern.count(".") for pattern in free):
            continue
        kept[key] = _without(value, free, f"{path}.") if isinstance(value, Mapping) else value
    return kept


def _digests(plugin: type[Reward], options: Mapping[str, Any]) -> dict[TreePath, str]:
    """By the place of an option that names a file here, the sum of its content."""
    named = leaves((Option(plugin.Params),), options, ())
    files = {path: Path(value) for path, value, accepted in named if isinstance(value, str) and is_path(accepted)}
    return {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items() if file.is_file()}


def _with_contents(value: Any, path: TreePath, digests: Mapping[TreePath, str]) -> Any:
    """Options with the sum of a file's content in the place of its name: a copy of a rubric is the same rubric."""
    if isinstance(value, Mapping):
        return {key: _with_contents(item, (*path, key), digests) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_contents(item, (*path, index), digests) for index, item in enumerate(value)]
    return digests.get(path, value)
