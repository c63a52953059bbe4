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
from typing import Annotated, final

import typer

from wavalign.errors import PreflightError

from .console import Format, output_format, say_json, say_table

SPEECH_PACKAGES = ("espeakng_loader", "onnxruntime", "pocketsphinx", "speechmos")
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
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where runs shall be written.")] = Path(
        "runs"
    ),
    json: Annotated[bool, typer.Option("--json", help="One object for programs.")] = False,
) -> None:
    """Look at this machine and say what is missing."""
    output_format.set(Format.JSON if json else Format.TEXT)
    looks: Sequence[Callable[[], Finding]] = (
        look_at_python,
        lambda: look_at_packages("torch", ("torch", "transformers"), "install wavalign again", Verdict.BROKEN),
        look_at_devices,
        look_at_deepspeed,
        lambda: look_at_packages("speech", SPEECH_PACKAGES, 'pip install "wavalign[speech]"', Verdict.MISSING),
        lambda: look_at_packages("data", ("pyarrow",), 'pip install "wavalign[data]"', Verdict.MISSING),
        lambda: look_at_packages(
            "tensorboard", ("tensorboard",), 'pip install "wavalign[tensorboard]"', Verdict.MISSING
        ),
        lambda: look_at_folder("run folder", folder),
        lambda: look_at_folder("temporary folder", Path(tempfile.gettempdir())),
    )
    findings = [look() for look in looks]
    if json:
        say_json([{"what": f.what, "verdict": f.verdict, "detail": f.detail, "hint": f.hint} for f in findings])
    else:
        say_table(
            ("looked at", "verdict", "found"),
            [(f.what, f.verdict, f.detail + (f"; {f.hint}" if f.hint else "")) for f in findings],
        )
    broken = [finding.what for finding in findings if finding.verdict is Verdict.BROKEN]
    if broken and not json:
        raise PreflightError(f"not ready: {', '.join(broken)}")
    if broken:
        raise typer.Exit(PreflightError.exit_code)  # the object printed says it all


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
