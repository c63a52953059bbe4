"""The graph holds what the terms ask for and nothing else."""

from pathlib import Path

import pytest

from tests.toy.compiled import Change, compiled, drop, graph, only_stage, put
from tests.toy.world import PLUGINS
from wavalign.engine.compile.plan import Graph

LISTENS: tuple[Change, ...] = (
    put("rewards.style", {"type": "toy_loudness"}),
    put("model.codec", {"type": "source_filter"}),
)
TEXT_ONLY = put("objective.terms.rl.loss", {"type": "grpo"})


def names(found: Graph) -> list[str]:
    return [node.name for node in found.nodes]


def pruned(found: Graph) -> dict[str, str]:
    return {each.what: each.why for each in found.pruned}


def test_the_hybrid_graph_has_every_part_once(tmp_path: Path) -> None:
    assert names(graph(tmp_path)) == [
        "demonstrations",
        "prompts",
        "rollout",
        "reward.exact",
        "forward.reference",
        "logprobs.reference",
        "aggregate",
        "advantage",
        "gate",
        "forward.policy",
        "logprobs.policy",
        "term.rl",
        "term.rl.kl",
        "term.sft",
        "objective",
        "backward",
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
def test_every_need_is_given_before(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    found = graph(tmp_path, *changes)
    given: set[str] = set()
    for node in found.nodes:
        missing = set(node.needs) - given
        assert not missing, f"{node.name} needs {missing}, given so far: {given}"
        assert not set(node.gives) & given, f"{node.name} gives what is there already"
        given |= set(node.gives)
    phases = [node.phase for node in found.nodes]
    assert phases == sorted(phases, key=["collect", "learn", "update"].index)
    assert not {each.what for each in found.pruned} & set(names(found))


def test_what_one_update_a_batch_leaves_idle_is_said(tmp_path: Path) -> None:
    """The ratio to the sampling policy is 1, so that no clip acts; where there is none, nothing is said."""

    def details(*changes: Change) -> dict[str, str]:
        return {node.name: node.detail for node in graph(tmp_path, *changes).nodes if node.kind == "term"}

    assert "clip inert here: one update a batch" in details()["term.rl"]
    assert "inert" not in details()["term.sft"]
    assert details(put("objective.terms.rl.loss.clip", None))["term.rl"] == "grpo"


def test_without_kl_no_reference_is_loaded(tmp_path: Path) -> None:
    assert graph(tmp_path).reference
    found = graph(tmp_path, TEXT_ONLY)
    assert not found.reference
    assert "no second model" in pruned(found)["forward.reference"]


def test_a_coefficient_of_0_is_no_kl(tmp_path: Path) -> None:
    assert not graph(tmp_path, put("objective.terms.rl.loss.kl.coefficient", 0)).reference


def test_a_reference_for_demonstrations_alone(tmp_path: Path) -> None:
    """A loss on demonstrations may need the reference too, with no rollouts anywhere."""
    found = graph(
        tmp_path,
        put("objective.terms", {"pull": {"loss": "toy_gold_kl"}}),
        drop("objective.gate"),
    )
    assert found.reference
    assert not found.has("rollout")
    assert next(node for node in found.nodes if node.name == "forward.reference").needs == ("demonstrations",)
    assert next(node for node in found.nodes if node.name == "term.pull").needs == ("logprobs", "ref_logprobs")


def test_nothing_is_vocoded_unless_a_reward_listens(tmp_path: Path) -> None:
    silent, loud = graph(tmp_path), graph(tmp_path, *LISTENS)
    assert "nothing is vocoded" in pruned(silent)["decode_audio"]
    assert not silent.has("decode_audio")
    nodes = {node.name: node for node in loud.nodes}
    assert nodes["decode_audio"].gives == {"waveforms": "[P, G]"}
    assert "waveforms" in nodes["reward.style"].needs
    assert "waveforms" not in nodes["reward.exact"].needs


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
    assert next(node for node in own.nodes if node.name == "rollout").detail == "whole answers, for term.rl"
    assert "rollout.sound" not in pruned(own)
    said = graph(tmp_path, plugins, TEXT_ONLY, put("objective.terms.rl.tokens", {"type": "just_text"}))
    assert said.rollout_need == "text"
    assert "the same without it" in pruned(said)["rollout.sound"]
    looks = graph(tmp_path, plugins, put("rewards.short", {"type": "short"}))
    assert looks.rollout_need == "all"
    assert next(node for node in looks.nodes if node.name == "rollout").detail == "whole answers, for reward.short"


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
    assert not found.has("reward")
    assert "no term needs advantages" in pruned(found)["reward.style"]


@pytest.mark.parametrize("factor", ["weight", "share"])
def test_a_factor_of_0_prunes_the_term_and_what_only_it_needs(tmp_path: Path, factor: str) -> None:
    found = graph(
        tmp_path,
        put(f"objective.terms.rl.{factor}", 0),
        put("objective.terms.sft.share", 1),
    )
    assert names(found) == [
        "demonstrations",
        "forward.policy",
        "logprobs.policy",
        "term.sft",
        "objective",
        "backward",
        "update",
        "metrics",
    ]
    left_out = pruned(found)
    assert left_out["term.rl"] == left_out["term.rl.kl"] == "its weight or share is 0"
    assert {"prompts", "rollout", "reward.exact", "advantage", "gate", "forward.reference"} <= set(left_out)
    assert found.rollout_need == "none"


def test_a_moving_share_keeps_the_rollouts_its_gate_reads(tmp_path: Path) -> None:
    """With rl switched off `1 - gate` still moves with the rewards."""
    found = graph(tmp_path, put("objective.terms.rl.weight", 0))
    assert found.has("reward")
    assert found.has("gate")
    assert not found.has("advantage")
    assert next(node for node in found.nodes if node.name == "forward.policy").needs == ("demonstrations",)


def test_an_unused_gate_is_pruned(tmp_path: Path) -> None:
    found = graph(tmp_path, put("objective.terms.rl.share", 0.5), put("objective.terms.sft.share", "0.5"))
    assert not found.has("gate")
    assert "share" in pruned(found)["gate"]


def test_a_gate_that_reads_no_rewards_needs_none(tmp_path: Path) -> None:
    found = graph(
        tmp_path,
        drop("objective.terms.rl"),
        put("objective.gate", {"type": "fixed", "value": 0.5}),
    )
    assert next(node for node in found.nodes if node.name == "gate").needs == ()
    assert not found.has("rollout")


def test_supervised_learning_samples_nothing(tmp_path: Path) -> None:
    found = graph(tmp_path, *VARIATIONS["supervised"], drop("rewards"), drop("data.prompts"))
    assert found.rollout_need == "none"
    assert not any(found.has(kind) for kind in ("prompts", "rollout", "reward", "advantage"))
    assert "no second model" in pruned(found)["forward.reference"]


def test_preference_alone_reads_no_demonstrations(tmp_path: Path) -> None:
    found = graph(tmp_path, *VARIATIONS["preference"], drop("data.demonstrations"))
    assert not found.has("demonstrations")
    assert next(node for node in found.nodes if node.name == "forward.policy").needs == ("rollouts",)


def test_shares_are_numbers_or_the_two_words(tmp_path: Path) -> None:
    """However a share was spelled, the plan has one spelling."""
    plan = compiled(
        tmp_path,
        put("objective.terms.rl.share", " gate "),
        put("objective.terms.sft.share", "1-gate"),
        put("objective.terms.more", {"loss": "cross_entropy", "share": "0.25"}),
    )
    shares = {term.name: term.share for term in only_stage(plan).terms}
    assert shares == {"rl": "gate", "rl.kl": "gate", "sft": "1 - gate", "more": 0.25}


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
    assert (found["rl.kl_audio"].share, found["rl.kl_audio"].aggregation) == ("gate", "sequence")
    assert found["rl.kl_audio"].mask.params == {"text": 0.0, "audio": 1.0, "marks": 0.0, "text_end": None}
