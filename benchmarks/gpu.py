"""Checks and measures everything that needs a GPU, in at most five minutes, row by row.

    python benchmarks/gpu.py [--device cuda|cpu] [--small] [--minutes M] [--only NAME ...] [--json FILE]

Needs this checkout, torch, transformers and what wavalign itself imports; a row whose packages are missing says so.
`--device cpu --small` shows on any machine that the script runs. Each row stands as soon as it is known, so that a run
that is cut off still tells.
"""

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.cuda.rows import Row, Setting, ceilings

Rows = Callable[[Setting], Iterator[Row]]


def _sampling(name: str) -> Rows:
    def run(setting: Setting) -> Iterator[Row]:
        from benchmarks.cuda import sampling

        found: dict[str, Rows] = {
            "ids": sampling.same_ids,
            "frequencies": sampling.frequencies,
            "sampler": sampling.rates,
            "steady": sampling.steadiness,
        }
        yield from found[name](setting)

    return run


def _training(setting: Setting) -> Iterator[Row]:
    from benchmarks.cuda import training

    yield from training.rates(setting)


def _memory(setting: Setting) -> Iterator[Row]:
    from benchmarks.cuda import runs

    yield from runs.memory(setting)


def _resume(setting: Setting) -> Iterator[Row]:
    from benchmarks.cuda import runs

    yield from runs.resume(setting)


def _steps(setting: Setting) -> Iterator[Row]:
    from benchmarks.cuda import runs

    yield from runs.steps(setting)


PARTS: dict[str, Rows] = {
    "ids": _sampling("ids"),
    "frequencies": _sampling("frequencies"),
    "sampler": _sampling("sampler"),
    "training": _training,
    "resume": _resume,
    "steps": _steps,
    "memory": _memory,
    "steady": _sampling("steady"),
}
"""By name, most telling first; each imports what it needs when its turn comes, so that one missing package costs one
part."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU can do")
    parser.add_argument("--minutes", type=float, default=5.0, help="begin no part after so many")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    return parser.parse_args()


def stamp(device: torch.device) -> str:
    """Hardware and versions, on one line."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu"
    packages = []
    for package in ("torch", "transformers", "deepspeed"):
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            packages.append(f"no {package}")
    return ", ".join([name, f"python {platform.python_version()}", *packages])


def measure(setting: Setting, names: list[str], until: float) -> Iterator[Row]:
    """Every row; a part that fails or comes too late is a row too."""
    for name in names:
        if time.monotonic() > until:
            yield Row(name, "not run: out of time")
            continue
        try:
            yield from PARTS[name](setting)
        except ImportError as error:
            yield Row(name, f"not run: {error}", holds=False)
        except Exception as error:  # noqa: BLE001 - one part must not take the others with it
            traceback.print_exc(limit=8)
            yield Row(name, f"failed: {type(error).__name__}: {str(error).splitlines()[0][:160]}", holds=False)


def main() -> None:
    options = arguments()
    until = time.monotonic() + 60 * options.minutes
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device; `--device cpu --small` shows that the script runs")
    device = torch.device(options.device)
    print(f"# {stamp(device)}\n\n| what | measured | aim | met |\n|---|---|---|---|", flush=True)
    setting = ceilings(device, torch.bfloat16 if options.device == "cuda" else torch.float32, small=options.small)
    first = [
        Row("memory, a copy", f"{setting.bandwidth / 1e9:,.0f} GB/s, read and written"),
        Row(f"{setting.dtype} product".replace("torch.", ""), f"{setting.matrix_rate / 1e12:,.2f} Tflop/s"),
    ]
    rows: list[dict[str, Any]] = []
    for found in first:
        print(found, flush=True)
    for found in measure(setting, options.only, until):
        print(found, flush=True)
        rows.append({"what": found.what, "value": found.value, "aim": found.aim, "met": found.holds})
    missed = [row["what"] for row in rows if row["met"] is False]
    print(f"\nNot met: {', '.join(missed) or 'nothing of the above'}")
    if options.json:
        about = {"stamp": stamp(device), "bandwidth": setting.bandwidth, "matrix_rate": setting.matrix_rate}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
