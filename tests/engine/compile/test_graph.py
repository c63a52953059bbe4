"""The graph holds what the terms ask for and nothing else."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest

from tests.toy.compiled import Change, compiled, drop, graph, only_stage, put
from tests.toy.world import PLUGINS
from wavalign.engine.compile.plan import Graph, Operator

LISTENS: tuple[Change, ...] = (
    put("rewards.style", {"type": "toy_loudness"}),
    put("model.codec", {"type": "source_filter"}),
)
TEXT_ONLY = put("objective.terms.rl.loss", {"type": "grpo"})


def names(found: Graph) -> list[str]:
    return [each.name for each in found.operators]


def operator(found: Graph, name: str) -> Operator:
    (one,) = (each for each in found.operators if each.name == name)
    return one


def pruned(found: Graph) -> dict[str, str]:
    return {each.what: each.why for each in found.pruned}


def test_the_hybrid_graph_has_every_part_once(tmp_path: Path) -> None:
    assert names(graph(tmp_path)) == [
        "prompts",
        "rollout",
        "reward.exact",
        "rows.rollouts",
        "rows.demonstrations",
        "rows",
        "scored_batches",
        "reference",
        "updates",
        "aggregate",
        "advantage",
        "gate",
        "micro_batches",
        "denominators",
        "forward",
        "term.rl",
        "term.rl.kl",
        "term.sft",
        "objective",
        "backward",
        "kl_to_reference",
        "first_ratio",
        "totals",
        "update",
        "metrics",
    ]


VARIATIONS: dict[str, tuple[Change, ...]] = {
    "hybrid": (),
    "no kl": (TEXT_ONLY,),
    "listening": LISTENS,
    "supervised": (drop("objective.terms.rl"), put("objective.terms.sft.share", 1), drop("objective.gate")),
    "preference": (drop("objective.terms.sft"),),
    "own gate": (put("objective.gate", {"type": "toy_counting"}), put("objective.terms.rl.share", 1)),
    "gold kl": (put("objective.terms.pull", {"loss": "toy_gold_kl"}),),
    "sequence": (put("objective.terms.rl.loss", {"type": "toy_sequence"}),),
}


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_every_need_is_given_before_by_exactly_one_operator(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    found = graph(tmp_path, *changes)
    given: set[str] = set()
    for each in found.operators:
        missing = set(each.needs) - given
        assert not missing, f"{each.name} needs {missing}, given so far: {given}"
        assert not set(each.gives) & given, f"{each.name} gives what is there already"
        given |= set(each.gives)
    assert len(set(names(found))) == len(names(found))
    assert not {each.what for each in found.pruned} & {*names(found), *given}


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_nothing_is_given_that_nobody_needs(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    """But for what a step ends in, and the gradients, which the update finds in the network."""
    found = graph(tmp_path, *changes)
    needed = {need for each in found.operators for need in each.needs}
    assert {value for each in found.operators for value in each.gives} - needed == {"result"}


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_inner_scopes_stand_between_the_outer_ones(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    scopes = [scope for scope, _ in groupby(each.scope for each in graph(tmp_path, *changes).operators)]
    assert scopes == ["collect", "update", "micro_batch", "update", "collect"]


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_threads_start_first_and_who_waits_for_them_comes_last(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    """Between an operator in a thread and what it needs stands nothing that could have come after it."""
    collect = [each for each in graph(tmp_path, *changes).operators if each.scope == "collect"][:-1]  # metrics ends it
    in_threads = {value for each in collect if each.place == "threads" for value in each.gives}
    waits = [bool(set(each.needs) & in_threads) and each.place != "threads" for each in collect]
    behind = {value for each, waiting in zip(collect, waits, strict=True) if waiting for value in each.gives}
    for place, each in enumerate(collect):
        earlier = collect[:place]
        if each.place == "threads":
            first = max(names_of(earlier).index(giver) for giver in givers(earlier, each.needs))
            assert all(other.place == "threads" for other in earlier[first + 1 :]), each.name
        if any(waits[:place]):
            assert waits[place] or set(each.needs) & behind, f"{each.name} waits for a thread and needs nothing of it"


def names_of(operators: Sequence[Operator]) -> list[str]:
    return [each.name for each in operators]


def givers(operators: Sequence[Operator], needs: Sequence[str]) -> list[str]:
    return [each.name for each in operators if set(each.gives) & set(needs)]


def test_nothing_waits_for_who_listens_but_the_table_of_rewards(tmp_path: Path) -> None:
    """A reward on text does not wait for the vocoder, and the reference scores while all rewards do."""
    found = graph(tmp_path, *LISTENS)
    order = names(found)
    listens = operator(found, "reward.style")
    assert listens.needs == ("waveforms",)
    assert operator(found, "reward.exact").needs == ("rollouts",)
    assert order.index("reward.exact") < order.index("reward.style")
    for each in ("decode_audio", "reward.exact", "reward.style"):
        assert operator(found, each).place == "threads"
    assert order.index("reward.style") < order.index("reference") < order.index("aggregate")
    waited: set[str] = set(operator(found, "reference").needs)
    for earlier in reversed(found.operators[: order.index("reference")]):
        waited |= set(earlier.needs) if set(earlier.gives) & waited else set()
    assert "rollouts" in waited
    assert not {value for value in waited if value.startswith("reward") or value == "waveforms"}


def test_what_one_update_a_batch_leaves_idle_is_said(tmp_path: Path) -> None:
    """The ratio to the sampling policy is 1, so that no clip acts; where there is none, nothing is said."""

    def details(*changes: Change) -> dict[str, str]:
        return {each.name: each.detail for each in graph(tmp_path, *changes).operators if each.function == "term"}

    assert "clip inert here: one update a batch" in details()["term.rl"]
    assert "inert" not in details()["term.sft"]
    assert details(put("objective.terms.rl.loss.clip", None))["term.rl"] == "grpo"


def test_without_kl_no_reference_is_loaded(tmp_path: Path) -> None:
    assert graph(tmp_path).gives("ref_logprobs")
    found = graph(tmp_path, TEXT_ONLY)
    assert not found.gives("ref_logprobs")
    assert "no second model" in pruned(found)["reference"]


def test_a_coefficient_of_0_is_no_kl(tmp_path: Path) -> None:
    assert not graph(tmp_path, put("objective.terms.rl.loss.kl.coefficient", 0)).gives("ref_logprobs")


def test_a_reference_for_demonstrations_alone(tmp_path: Path) -> None:
    """A loss on demonstrations may need the reference too, with no rollouts anywhere."""
    found = graph(
        tmp_path,
        put("objective.terms", {"pull": {"loss": "toy_gold_kl"}}),
        drop("objective.gate"),
    )
    assert found.gives("ref_logprobs")
    assert not found.gives("rollouts")
    assert operator(found, "rows").needs == ("rows.demonstrations",)
    assert operator(found, "reference").needs == ("rows",)
    assert operator(found, "micro_batches").needs == ("updates", "ref_logprobs")
    assert "logprobs" in operator(found, "term.pull").needs


def test_nothing_is_vocoded_unless_a_reward_listens(tmp_path: Path) -> None:
    silent, loud = graph(tmp_path), graph(tmp_path, *LISTENS)
    assert "nothing is vocoded" in pruned(silent)["decode_audio"]
    assert not silent.gives("waveforms")
    assert operator(loud, "decode_audio").gives == {"waveforms": "[P, G]"}
    assert "waveforms" in operator(loud, "reward.style").needs
    assert "waveforms" not in operator(loud, "reward.exact").needs


CRITIC = """
from wavalign.plugins.api import Loss, LossOutput

class Regress(Loss):
    '''Values to rewards.'''
    type = "regress"
    family = "rollouts"
    needs = frozenset({"values", "rewards"})
    def compute(self, inputs):
        gap = inputs.column("values")[:, None] - inputs.column("rewards")
        return LossOutput(gap.square().expand_as(inputs.logprobs))
"""


def test_a_loss_that_needs_values_brings_the_critic_in(tmp_path: Path) -> None:
    """That there is none is what the resolver found, and no sentence that always stands there."""
    assert "no critic" in pruned(graph(tmp_path))["values"]
    file = tmp_path / "critic.py"
    file.write_text(CRITIC, encoding="utf-8")
    plugins = put("plugins", [str(PLUGINS), str(file)])
    found = graph(tmp_path, plugins, put("objective.terms.value", {"loss": "regress"}))
    assert operator(found, "forward").gives == {"logprobs": "[B, S, T]", "values": "[B, T]"}
    assert "values" in operator(found, "term.value").needs
    assert "rewards" in operator(found, "micro_batches").needs
    assert "values" not in pruned(found)
    assert "no critic" not in "".join(pruned(found).values())
    off = graph(tmp_path, plugins, put("objective.terms.value", {"loss": "regress", "weight": 0}))
    assert "values" not in operator(off, "forward").gives
    assert "no critic" in pruned(off)["values"]


def test_what_no_term_reads_of_an_answer_is_said_truly(tmp_path: Path) -> None:
    """Answers are in the graph, only their log-probs are not kept; and no value a row is no matter of a critic."""
    found = graph(tmp_path, *VARIATIONS["sequence"])
    assert operator(found, "rollout").gives == {"rollouts": "[P, G]"}
    assert pruned(found)["old_logprobs"] == pruned(found)["row_values"] == "no term needs it"


def test_how_much_of_an_answer_is_sampled(tmp_path: Path) -> None:
    """Text alone where only text is scored; the whole answer when something listens or sound is scored."""
    assert graph(tmp_path).rollout_need == "text"
    assert graph(tmp_path, *LISTENS).rollout_need == "all"
    assert graph(tmp_path, put("objective.terms.rl.tokens", "all")).rollout_need == "all"
    assert graph(tmp_path, put("objective.terms.rl.tokens", {"text": 1, "marks": 0.5})).rollout_need == "all"
    kl_on_sound = put("objective.terms.rl.loss.kl.coefficient", {"audio": 0.1})
    assert graph(tmp_path, kl_on_sound).rollout_need == "all"
    assert (
        graph(tmp_path, put("objective.terms.rl.tokens", {"type": "roles", "text": 1, "text_end": 0})).rollout_need
        == "text"
    )
    assert graph(tmp_path, put("objective.terms.rl.tokens", {"type": "roles", "text_end": 1})).rollout_need == "text"


OWN_PLUGINS = """
import torch
from wavalign.plugins.api import Mask, Reward
from wavalign.plugins.batch import Role, Scored

class Before(Mask):
    '''Text, the less of it the longer the whole answer is.'''
    type = "before"
    def weights(self, roles):
        return (roles == int(Role.TEXT)) / (roles > int(Role.PROMPT)).sum(dim=(1, 2), keepdim=True).clamp(min=1)

class JustText(Before):
    '''The same, and says that it looks at text alone.'''
    type = "just_text"
    text_alone = True

class Short(Reward):
    '''Looks at the completion itself, which has no name in `needs`.'''
    type = "short"
    needs = frozenset()
    range = (0.0, 1.0)
    def score(self, rollout, dialogue):
        return Scored(1.0 / rollout.completion.length)
"""


def test_whole_answers_are_sampled_for_whoever_does_not_say_that_text_is_enough(tmp_path: Path) -> None:
    """A mask of one's own may read what stands behind the text, a reward without needs may look at anything."""
    file = tmp_path / "own.py"
    file.write_text(OWN_PLUGINS, encoding="utf-8")
    plugins = put("plugins", [str(PLUGINS), str(file)])
    own = graph(tmp_path, plugins, TEXT_ONLY, put("objective.terms.rl.tokens", {"type": "before"}))
    assert own.rollout_need == "all"
    assert operator(own, "rollout").detail == "whole answers, for term.rl"
    assert "rollout.sound" not in pruned(own)
    said = graph(tmp_path, plugins, TEXT_ONLY, put("objective.terms.rl.tokens", {"type": "just_text"}))
    assert said.rollout_need == "text"
    assert "the same without it" in pruned(said)["rollout.sound"]
    looks = graph(tmp_path, plugins, put("rewards.short", {"type": "short"}))
    assert looks.rollout_need == "all"
    assert operator(looks, "rollout").detail == "whole answers, for reward.short"


def test_a_listening_reward_that_nobody_uses_does_not_lengthen_answers(tmp_path: Path) -> None:
    supervised_by_kl = put("objective.terms.rl.loss", {"type": "kl"})
    found = graph(
        tmp_path,
        *LISTENS,
        supervised_by_kl,
        put("objective.terms.rl.share", 1),
        put("objective.terms.sft.share", 1),
        drop("objective.gate"),
    )
    assert found.rollout_need == "text"
    assert not found.made_for("reward")
    assert "no term needs advantages" in pruned(found)["reward.style"]


@pytest.mark.parametrize("factor", ["weight", "share"])
def test_a_factor_of_0_prunes_the_term_and_what_only_it_needs(tmp_path: Path, factor: str) -> None:
    found = graph(
        tmp_path,
        put(f"objective.terms.rl.{factor}", 0),
        put("objective.terms.sft.share", 1),
    )
    assert names(found) == [
        "rows.demonstrations",
        "rows",
        "updates",
        "micro_batches",
        "denominators",
        "forward",
        "term.sft",
        "objective",
        "backward",
        "totals",
        "update",
        "metrics",
    ]
    left_out = pruned(found)
    assert left_out["term.rl"] == left_out["term.rl.kl"] == "its weight or share is 0"
    assert {"prompts", "rollout", "reward.exact", "advantage", "gate", "reference"} <= set(left_out)
    assert found.rollout_need == "none"


def test_a_moving_share_keeps_the_rollouts_its_gate_reads(tmp_path: Path) -> None:
    """With rl switched off `1 - gate` still moves with the rewards."""
    found = graph(tmp_path, put("objective.terms.rl.weight", 0))
    assert found.made_for("reward")
    assert found.gives("gate")
    assert not found.gives("advantages")
    assert operator(found, "rows").needs == ("rows.demonstrations",)


def test_an_unused_gate_is_pruned(tmp_path: Path) -> None:
    found = graph(tmp_path, put("objective.terms.rl.share", 0.5), put("objective.terms.sft.share", "0.5"))
    assert not found.gives("gate")
    assert "share" in pruned(found)["gate"]


def test_a_gate_that_reads_no_rewards_needs_none(tmp_path: Path) -> None:
    found = graph(
        tmp_path,
        drop("objective.terms.rl"),
        put("objective.gate", {"type": "fixed", "value": 0.5}),
    )
    assert operator(found, "gate").needs == ()
    assert not found.gives("rollouts")


def test_supervised_learning_samples_nothing(tmp_path: Path) -> None:
    found = graph(tmp_path, *VARIATIONS["supervised"], drop("rewards"), drop("data.prompts"))
    assert found.rollout_need == "none"
    assert not any(found.gives(value) for value in ("prompts", "rollouts", "rewards", "advantages"))
    assert not found.made_for("reward")
    assert "no second model" in pruned(found)["reference"]


def test_preference_alone_reads_no_demonstrations(tmp_path: Path) -> None:
    found = graph(tmp_path, *VARIATIONS["preference"], drop("data.demonstrations"))
    assert not found.made_for("data_rows")
    assert operator(found, "rows").needs == ("rows.rollouts",)


def test_shares_are_numbers_or_the_two_words(tmp_path: Path) -> None:
    """However a share was spelled, the plan has one spelling."""
    plan = compiled(
        tmp_path,
        put("objective.terms.rl.share", " gate "),
        put("objective.terms.sft.share", "1-gate"),
        put("objective.terms.more", {"loss": "cross_entropy", "share": "0.25"}),
    )
    shares = {term.name: str(term.share) for term in only_stage(plan).terms}
    assert shares == {"rl": "gate", "rl.kl": "gate", "sft": "1 - gate", "more": "0.25"}


def test_the_kl_comes_along_with_its_parents_factors(tmp_path: Path) -> None:
    plan = compiled(
        tmp_path,
        put("objective.terms.rl.weight", 3),
        put("objective.terms.rl.aggregation", "sequence"),
        put("objective.terms.rl.loss.kl.coefficient", {"text": 0.5, "audio": 0.25}),
    )
    found = {term.name: term for term in only_stage(plan).terms}
    assert list(found) == ["rl", "rl.kl_text", "rl.kl_audio", "sft"]
    assert (found["rl.kl_text"].weight, found["rl.kl_audio"].weight) == (1.5, 0.75)
    assert found["rl.kl_audio"].brought_by == "rl"
    assert (str(found["rl.kl_audio"].share), found["rl.kl_audio"].aggregation) == ("gate", "sequence")
    assert found["rl.kl_audio"].mask.params == {"text": 0.0, "audio": 1.0, "marks": 0.0, "text_end": None}
