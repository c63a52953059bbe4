"""What a step logs of its speed, recounted from its own rows and answers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.distributed import run_ranks
from tests.toy.compiled import Change, compiled, put
from tests.toy.live import live_stage
from wavalign.engine.compile.plan import Plan
from wavalign.engine.state.distributed import World
from wavalign.engine.step.metrics import StepResult
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.step import StepExecutor
from wavalign.plugins.batch import Role, RolloutGroup

NAMES = {"text": (Role.TEXT, Role.TEXT_END), "audio": (Role.AUDIO,), "marks": (Role.AUDIO_MARK,)}
DENSE: tuple[Change, ...] = tuple(
    put(f"batch.{name}", False) for name in ("share_prompts", "packing", "skip_without_signal")
)


def counted(groups: Sequence[RolloutGroup]) -> Counter[int]:
    """Roles of the answers."""
    found = [each.completion.roles.flatten().tolist() for group in groups for each in group.rollouts]
    return Counter(role for roles in found for role in roles)


def one(folder: Path, *changes: Change, peak: float | None = None) -> tuple[LiveStage, StepResult]:
    """A step of the toy recipe without its demonstrations, so that its rows are its answers."""
    alone = put("objective", {"terms": {"rl": {"loss": {"type": "grpo"}, "tokens": "all"}}})
    live = live_stage(compiled(folder, alone, *changes))
    object.__setattr__(live.settings, "peak", peak)
    result = StepExecutor(live).step(0)
    live.close()
    return live, result


def test_rates_are_counts_over_their_times(tmp_path: Path) -> None:
    """Rows are prompts and answers; two epochs learn from them twice in a step."""
    _, result = one(tmp_path, put("batch.epochs", 2))
    line, roles = result.metrics, counted(result.groups)
    prompts = sum(len(group.rollouts) * group.prompt.length for group in result.groups)
    step, rollout = line["step_seconds"], line["rollout_seconds"]
    assert line["samples_per_second"] * step == pytest.approx(2 * 16)
    assert line["learned/prompt_tokens_per_second"] * step == pytest.approx(2 * prompts)
    for kind, which in NAMES.items():
        count = sum(roles[role] for role in which)
        assert line[f"learned/{kind}_tokens_per_second"] * step == pytest.approx(2 * count)
        assert line[f"sampled/{kind}_tokens_per_second"] * rollout == pytest.approx(count)
    assert roles[Role.TEXT] and roles[Role.AUDIO] and roles[Role.AUDIO_MARK]
    assert line["tokens_per_second"] * step == pytest.approx(2 * (prompts + sum(roles.values())))


def test_operations_of_a_step_by_hand(tmp_path: Path) -> None:
    """Every row as it is, in one micro-batch: each token in its row's mean length, heads at the tokens of answers."""
    live, result = one(tmp_path, *DENSE, put("batch.micro_batch", 16), peak=1e9)
    assert live.settings.flops is not None
    lengths = [g.prompt.length + each.completion.length for g in result.groups for each in g.rollouts]
    roles = counted(result.groups)
    valid = sum(roles[role] for which in NAMES.values() for role in which)
    span = sum(length**2 for length in lengths) / sum(lengths)
    expected = (
        sum(lengths) * (live.settings.flops.trunk + live.settings.flops.attention * span)
        + valid * live.settings.flops.heads[0]
    )
    line = result.metrics
    assert line["model_flops_per_second"] * line["learn_seconds"] == pytest.approx(expected)
    assert line["mfu"] == pytest.approx(expected / line["learn_seconds"] / 1e9)


def test_what_is_shared_is_computed_once(tmp_path: Path) -> None:
    """Prompts that a group shares are no work the second time; padding is none at all."""
    all_run = put("batch.skip_without_signal", False)
    whole, shared = (one(tmp_path, all_run, put("batch.share_prompts", share))[1].metrics for share in (False, True))
    apart, once = (line["model_flops_per_second"] * line["learn_seconds"] for line in (whole, shared))
    assert once < apart
    assert "mfu" not in whole, "a CPU's peak is not known"


def test_every_operator_has_its_time(tmp_path: Path) -> None:
    live, result = one(tmp_path)
    names = {each.name for each in live.plan.graph.operators} - {"metrics"}
    found = {key: value for key, value in result.metrics.items() if key.startswith("operator/")}
    assert {*found} == {f"operator/{name}_seconds" for name in names}
    assert found["operator/rollout_seconds"] > 0 and found["operator/backward_seconds"] > 0
    assert sum(found.values()) < 2 * result.metrics["step_seconds"]


def part(world: World, plan: str) -> dict[str, float]:
    """A step of one rank: all it logs."""
    live = live_stage(Plan.from_json(plan), world)
    line = dict(StepExecutor(live).step(0).metrics)
    live.close()
    return line


def test_two_ranks_count_what_one_counts(tmp_path: Path) -> None:
    """Tokens and operations are those of all ranks; an idle micro-batch of the one with fewer rows is none."""
    cut = (*DENSE, put("batch.micro_batch", 1))
    plan = compiled(tmp_path, *cut, put("runtime.processes", 2))
    lines = run_ranks(part, 2, plan.to_json())
    alone = part(World.single("cpu"), compiled(tmp_path, *cut).to_json())
    for key in ("tokens_per_second", "samples_per_second", "learned/text_tokens_per_second"):
        once = alone[key] * alone["step_seconds"]
        assert [line[key] * line["step_seconds"] for line in lines] == pytest.approx([once, once])
    once = alone["model_flops_per_second"] * alone["learn_seconds"]
    assert [x["model_flops_per_second"] * x["learn_seconds"] for x in lines] == pytest.approx([once, once])
    same = {key for key in lines[0] if key.startswith("operator/")}
    assert all(lines[0][key] == lines[1][key] for key in same), "means over the ranks"
