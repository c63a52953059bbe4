"""Time and peak memory of the fused log-probabilities against the full log-softmax, by vocabulary.

    python benchmarks/logprobs.py [--quick] [--rows N] [--width H] [--repeats R] [--device cpu|cuda]

Every point is a forward and a backward pass in a process of its own, the two methods in turn; medians are shown.
Memory is what the process grew by at its highest over what the inputs and their gradients occupy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from wavalign.engine.models.scored_policy import selected_logprobs

VOCABULARIES = (2_048, 8_192, 32_000, 128_256, 168_072)


def full(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Keep every log-probability, use one a row."""
    return (hidden @ weight.t()).float().log_softmax(dim=1).gather(1, targets[:, None])[:, 0]


def fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Ask the primitive."""
    return selected_logprobs(hidden, weight, targets)[0]


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"full": full, "fused": fused}


def memory(device: torch.device, field: str) -> int:
    """Bytes this process holds now (`VmRSS`) or held at most since the last reset (`VmHWM`); Linux for a CPU."""
    if device.type == "cuda":
        reading = torch.cuda.memory_allocated if field == "VmRSS" else torch.cuda.max_memory_allocated
        return reading(device)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def reset_peak(device: torch.device) -> None:
    """Forget the highest memory so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(method: str, rows: int, width: int, vocabulary: int, device: torch.device) -> dict[str, float]:
    """Seconds of the faster of two passes, and bytes of the first beyond inputs and gradients."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).to(device).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).to(device).div_(width**0.5).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator).to(device)
    warm = METHODS[method](hidden[:2, :2], weight[:4, :2], targets[:2].clamp(max=3))
    torch.autograd.backward([warm.sum()])  # wakes the library up
    hidden.grad, weight.grad = torch.ones_like(hidden), torch.ones_like(weight)
    before, seconds, used = memory(device, "VmRSS"), [], -1
    reset_peak(device)
    for _ in range(2):
        hidden.grad = weight.grad = None
        start = time.perf_counter()
        torch.autograd.backward([METHODS[method](hidden, weight, targets).sum()])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
        used = max(memory(device, "VmHWM") - before, 0) if used < 0 else used
    return {"seconds": min(seconds), "bytes": used}


def spawn(method: str, vocabulary: int, options: argparse.Namespace) -> dict[str, float]:
    """Measure in a fresh process."""
    point = [method, str(options.rows), str(options.width), str(vocabulary), options.device]
    done = subprocess.run([sys.executable, __file__, "--point", *point], check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small sizes, once: does it run")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--point", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        method, rows, width, vocabulary, device = options.point
        print(json.dumps(measure(method, int(rows), int(width), int(vocabulary), torch.device(device))))
        return
    if options.quick:
        options.rows, options.width, options.repeats = 64, 64, 1
    points: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(options.repeats):
        for vocabulary in VOCABULARIES:
            for method in METHODS:
                points.setdefault((vocabulary, method), []).append(spawn(method, vocabulary, options))
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(f"rows {options.rows}, width {options.width}, float32, {options.device}, threads {threads}, ", end="")
    print(f"torch {torch.__version__}, median of {options.repeats}; forward + backward\n")
    print("| vocabulary | full s | fused s | time ratio | full MiB | fused MiB | memory ratio |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for vocabulary in VOCABULARIES:
        seconds, sizes = (
            [statistics.median(point[what] for point in points[vocabulary, method]) for method in METHODS]
            for what in ("seconds", "bytes")
        )
        mebibytes = [value / 2**20 for value in sizes]
        ratio = f"{sizes[1] / sizes[0]:.2f}" if sizes[0] else "-"
        print(
            f"| {vocabulary:,} | {seconds[0]:.4f} | {seconds[1]:.4f} | {seconds[1] / seconds[0]:.2f} "
            f"| {mebibytes[0]:.0f} | {mebibytes[1]:.0f} | {ratio} |"
        )


if __name__ == "__main__":
    main()
