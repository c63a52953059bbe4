"""How rows are given to the network changes nothing that is learned: shared, packed, cut by tokens, or left out."""

from pathlib import Path

import pytest

from tests.distributed import run_ranks
from tests.engine.step.test_invariance import MIXED, Run, assert_equal
from tests.engine.step.test_openings import PAIRS, REGRESS
from tests.engine.step.test_updates import SEVERAL
from tests.toy.compiled import Change, compiled, only_stage, put
from tests.toy.live import live_stage, train, train_rank
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import PluginError

DENSE = (put("batch.share_prompts", False), put("batch.packing", False), put("batch.skip_without_signal", False))
STEADY = put("optim.epsilon", 1e-3)
SPARSE: tuple[Change, ...] = (
    # Nothing but its advantage teaches an answer; of one, two or no words in reply some two are worth the same.
    put("rewards", {"sum": {"type": "toy_checksum", "scale": [1, 5]}}),
    put("rollout", {"group_size": 2, "temperature": 1.0, "max_new_tokens": 2, "truncated": "keep"}),
    put("batch.prompts", 8),
    put("objective.terms.rl.loss", {"type": "grpo", "clip": 0.2}),
    put("optim.learning_rate", 0.02),
    STEADY,
)
CASES: dict[str, tuple[Change, ...]] = {
    "terms of all kinds": MIXED,
    "pairs": (*PAIRS, STEADY),
    "scalar heads": (*REGRESS, STEADY),
    "two epochs of two parts": SEVERAL,
    "few answers that teach": SPARSE,
    "two codes ahead": (
        *SPARSE,
        put("model.architecture.num_mtp_layers", 2),
        put("model.architecture.decoding", [1, 2]),
        put("objective.terms.ahead", {"loss": "cross_entropy", "heads": "mtp", "weight": 0.3}),
    ),
}
CUTS: dict[str, tuple[Change, ...]] = {
    "shared and packed": (),
    "shared": (put("batch.packing", False), put("batch.skip_without_signal", False)),
    "packed": (put("batch.share_prompts", False), put("batch.skip_without_signal", False)),
    "few rows": (put("batch.micro_batch", 5),),
    "few tokens": (put("batch.micro_batch_tokens", 40),),
    "few of both, as they are": (*DENSE, put("batch.micro_batch_tokens", 60), put("batch.micro_batch", 5)),
    "a token": (put("batch.micro_batch_tokens", 1),),
}


def compared(run: Run) -> Run:
    """Without what says how rows were given to the network."""
    told = {"rows_without_signal", "over_micro_batch_tokens"}
    # Ratios are logged of what was run; before the first update they are 1.
    seen = {"rl/ratio", "rl/kl_to_old", "rl/max_log_ratio", "rl/clip_low", "rl/clip_high", "ratio/first"}
    return [{key: value for key, value in line.items() if key not in told | seen} for line in run[0]], run[1]


@pytest.mark.parametrize("case", CASES)
def test_nothing_depends_on_how_rows_are_given(tmp_path: Path, case: str) -> None:
    dense = compared(train(compiled(tmp_path, *CASES[case], *DENSE), steps=2))
    for name in ("shared and packed", "shared", "packed", "few tokens"):
        found = compared(train(compiled(tmp_path, *CASES[case], *CUTS[name]), steps=2))
        assert_equal(found, dense)


@pytest.mark.parametrize("cut", CUTS)
def test_nothing_depends_on_how_a_step_is_cut(tmp_path: Path, cut: str) -> None:
    dense = compared(train(compiled(tmp_path, *SPARSE, *DENSE), steps=2))
    assert_equal(compared(train(compiled(tmp_path, *SPARSE, *CUTS[cut]), steps=2)), dense)


def test_nothing_depends_on_the_ranks(tmp_path: Path) -> None:
    """Of two ranks one may have no answer that teaches, and both log the same names."""
    dense = compared(train(compiled(tmp_path, *SPARSE, *DENSE)))
    two = compiled(tmp_path, *SPARSE, put("runtime.processes", 2), put("batch.micro_batch_tokens", 50))
    first, second = run_ranks(train_rank, 2, two.to_json())
    assert first[0] == second[0]
    assert_equal(compared(first), dense)


def test_what_is_saved_is_logged(tmp_path: Path) -> None:
    plan = compiled(tmp_path, *SPARSE, put("batch.micro_batch_tokens", 30))
    geometry = only_stage(plan).geometry
    assert geometry is not None and geometry.micro_batch_tokens == 30 and geometry.skip_without_signal
    live = live_stage(plan)
    result = StepExecutor(live).step(0)
    live.close()
    assert result.advantages is not None
    quiet = int((result.advantages == 0).sum())
    assert 0 < quiet < result.advantages.numel()
    assert result.metrics["rows_without_signal"] == quiet
    assert result.metrics["over_micro_batch_tokens"] == 0
    assert 0 < result.metrics["forward_share"] < 0.6
    assert result.metrics["rl/ratio"] == pytest.approx(1, abs=1e-5)  # a mean over what was run
    assert result.metrics["ratio/first"] == pytest.approx(1, abs=1e-5)
    plain = live_stage(compiled(tmp_path, *SPARSE, *DENSE))
    whole = StepExecutor(plain).step(0).metrics
    plain.close()
    assert whole["forward_share"] == 1
    assert result.metrics["forward_tokens"] < 0.5 * whole["forward_tokens"]
    assert "rows_without_signal" not in whole and "over_micro_batch_tokens" not in whole


def test_a_budget_that_no_row_fits_is_counted(tmp_path: Path) -> None:
    (line, *_), _ = train(compiled(tmp_path, *SPARSE, *DENSE, put("batch.micro_batch_tokens", 1)), steps=1)
    assert line["over_micro_batch_tokens"] == 16 + 4  # every row goes alone


def test_rows_are_run_that_a_metric_asks_for(tmp_path: Path) -> None:
    """The divergence to the reference is logged of all answers."""
    geometry = only_stage(compiled(tmp_path, *MIXED)).geometry
    assert geometry is not None and not geometry.skip_without_signal
    (line, *_), _ = train(compiled(tmp_path, *MIXED), steps=1)
    assert "rows_without_signal" not in line


SILENT = """
from typing import final
from wavalign.plugins.api import Loss, LossInputs, LossOutput

@final
class Silent(Loss):
    type = "silent"
    family = "rollouts"
    signal = "rewards"

    @property
    def needs(self):
        return frozenset({"advantages"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(-inputs.logprobs * inputs.column("advantages"))
"""


def test_a_signal_that_is_no_need_is_an_error(tmp_path: Path) -> None:
    plugin = tmp_path / "silent.py"
    plugin.write_text(SILENT, encoding="utf-8")
    changes = (lambda recipe: recipe["plugins"].append(str(plugin)), put("objective.terms.own", {"loss": "silent"}))
    with pytest.raises(PluginError, match="silent without `rewards`"):
        compiled(tmp_path, *changes)
    plugin.write_text(SILENT.replace('"advantages"})', '"advantages", "rewards"})'), encoding="utf-8")
    terms = only_stage(compiled(tmp_path, *changes)).terms
    assert {term.name: term.signal for term in terms if term.signal} == {"rl": "advantages", "own": "rewards"}
