"""Our objectives beside TRL's on the same numbers, printed as tables: losses on shared log-probs, then whole trainers.

    python benchmarks/parity_trl.py [--quick]

Trainers start from one file of weights, a random Qwen2, and see the same ids: DPO on frozen pairs, GRPO as PPO on
frozen answers with two epochs of two mini-batches, whose old log-probs are not those of the weights. float32, one
thread, no dropout, AdamW, a constant learning rate. Each runs in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.dpo.point import Point as DPOPoint
from benchmarks.grpo.point import Measured
from benchmarks.grpo.point import Point as GRPOPoint

LOSS, RELATIVE, NORM, WEIGHTS = 1e-6, 1e-5, 1e-4, 1e-5
"""Allowed: of a loss absolute and relative, of gradient norms relative, of weights after the last step absolute."""
UPDATES = 20
AnyPoint = DPOPoint | GRPOPoint


@final
@dataclass(frozen=True, slots=True)
class Gap:
    """The largest differences over a training."""

    loss: float
    loss_holds: bool
    norm: float
    weights: float
    moved: float
    """The farthest that a weight went."""

    @property
    def holds(self) -> bool:
        return self.loss_holds and self.norm <= NORM and self.weights <= WEIGHTS


def points(*, quick: bool = False) -> dict[str, AnyPoint]:
    """Trainings to compare, by name; each has `UPDATES` updates."""
    dpo = DPOPoint("T", 2048, pairs=4, prompt_length=32, completion_length=24, ragged=True, warm_up=0, steps=UPDATES)
    grpo = GRPOPoint("T", 2048, 0.5, prompts=4, prompt_length=32, completion_length=24, ragged=True, warm_up=0)
    grpo = replace(grpo, steps=UPDATES // 4, epochs=2, mini_batches=2)
    found: dict[str, AnyPoint] = {"DPO": dpo, "GRPO, 2 epochs x 2 mini-batches": grpo}
    if quick:
        return found
    return {
        **found,
        "DPO, references computed once": replace(dpo, reference="once"),
        "DPO hinge": replace(dpo, variant="hinge"),
        "DPO ipo": replace(dpo, variant="ipo"),
        "DPO robust, head of its own": replace(dpo, variant="robust", label_smoothing=0.1, tied=False),
        "GRPO without reference, 2 x 2, mean over tokens": replace(grpo, loss_type="bnpo", beta=0.0),
    }


def compare(point: AnyPoint, folder: Path) -> Gap:
    """Both sides, each in a process of its own."""
    from safetensors.torch import load_file

    world = folder / "world"
    spawn({"do": "world", "point": point.to_dict(), "kind": _kind(point), "world": str(world)})
    sides = []
    for who in ("ours", "trl"):
        order = {"do": who, "point": point.to_dict(), "kind": _kind(point), "world": str(world), "log": True}
        answer = spawn({**order, "folder": str(folder / who)})
        sides.append((Measured(**answer["measured"]), load_file(answer["weights"])))
    (mine, my), (other, their) = sides
    if my.keys() != their.keys():
        raise SystemExit(f"the trainers wrote different weights: {sorted(my.keys() ^ their.keys())}")
    first = load_file(world / "vita" / "model.safetensors")
    losses = list(zip(mine.losses, other.losses, strict=True))
    return Gap(
        loss=max(abs(a - b) for a, b in losses),
        loss_holds=all(abs(a - b) <= LOSS + RELATIVE * abs(b) for a, b in losses),
        norm=max(abs(a - b) / max(b, 1e-12) for a, b in zip(mine.grad_norms, other.grad_norms, strict=True)),
        weights=max(float((my[name] - their[name]).abs().max()) for name in my),
        moved=max(float((my[name] - first[name]).abs().max()) for name in my),
    )


def _kind(point: AnyPoint) -> str:
    return "dpo" if isinstance(point, DPOPoint) else "grpo"


def spawn(order: dict[str, Any]) -> dict[str, Any]:
    """Run this file on an order and give its answer, the last line it prints."""
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--order", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **quiet, **alone})
    if done.returncode:
        raise SystemExit(f"{order['do']} failed on {order['point']}:\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """What a spawned process does; each side is imported only where it runs."""
    world = Path(order["world"])
    point: Any = (DPOPoint if order["kind"] == "dpo" else GRPOPoint).from_dict(order["point"])
    if order["do"] == "world":
        from benchmarks.grpo.world import write_world

        write_world(point.network() if isinstance(point, DPOPoint) else point, world)
        return {}
    folder = Path(order["folder"])
    if order["do"] == "ours":
        from benchmarks.dpo import ours as dpo
        from benchmarks.grpo import ours as grpo

        measured, weights = (dpo if order["kind"] == "dpo" else grpo).measure(point, world, folder)
    else:
        from benchmarks.dpo import theirs as trl_dpo
        from benchmarks.grpo import theirs as trl_grpo

        measured, weights = (trl_dpo if order["kind"] == "dpo" else trl_grpo).measure(
            point, world, folder, log=order.get("log", True)
        )
    return {"measured": asdict(measured), "weights": str(weights)}


def print_losses() -> None:
    """Every offline loss on shared log-probs."""
    from benchmarks.parity.losses import CASES, Compared

    print("## Losses on shared log-probs (float64)\n")
    print("| loss | value | gradient |")
    print("|---|---:|---:|")
    for name in CASES:
        found = Compared(name)
        print(f"| {name} | {found.value:.1e} | {found.gradient:.1e} |")
    print("\nLargest absolute differences. TRL computes ORPO's odds in float32 whatever it is given.")


def print_trainers(named: dict[str, AnyPoint]) -> bool:
    """Every training; gives whether all hold."""
    print(f"\n## Trainers over {UPDATES} updates (float32)\n")
    print("| training | network | head | loss | norm | weights | moved | holds |")
    print("|---|---|---|---:|---:|---:|---:|---|")
    gaps = list(_gaps(named))
    print(
        f"\nLargest differences: loss (absolute; allowed {LOSS:g} + {RELATIVE:g} of it), gradient norm (relative; "
        f"{NORM:g}), weights after the last update (absolute; {WEIGHTS:g}). `moved` is the farthest a weight went."
    )
    return all(gap.holds for gap in gaps)


def _gaps(named: dict[str, AnyPoint]) -> Iterator[Gap]:
    for name, point in named.items():
        with tempfile.TemporaryDirectory() as folder:
            gap = compare(point, Path(folder))
        print(
            f"| {name} | {point.size}, {point.vocabulary:,} | {'tied' if point.tied else 'own'} | {gap.loss:.1e} "
            f"| {gap.norm:.1e} | {gap.weights:.1e} | {gap.moved:.1e} | {'yes' if gap.holds else 'NO'} |",
            flush=True,
        )
        yield gap


def main(arguments: Sequence[str]) -> int:
    """Print the tables; 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one training of each kind")
    parser.add_argument("--order", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.order:
        print(json.dumps(obey(json.loads(options.order))))
        return 0
    print_losses()
    return 0 if print_trainers(points(quick=options.quick)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
