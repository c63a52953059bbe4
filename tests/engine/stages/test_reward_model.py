"""A stage that learns which answers are preferred: what it measures and leaves, and the reward that scores with it."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import run_ranks
from tests.e2e.runs import comparable
from tests.engine.run.test_trainer import Signals, Stop, run
from tests.toy import preferences as toy
from tests.toy.compiled import Change, compiled, drop, problems, put
from tests.toy.live import silent
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.models.reward_card import read_card
from wavalign.engine.report.cards import before_and_after
from wavalign.engine.report.data import read_run
from wavalign.engine.report.outcomes import compare, read_outcomes
from wavalign.engine.run import reward_artifact
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.pair_evaluation import pair_evaluator
from wavalign.engine.run.reward_models import OpenModels
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.batches import Row
from wavalign.errors import DataError, PreflightError
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Answer, Dialogue, Rollout, TokenSequence

PAIRS = {"pairs": {"type": "toy_preferences"}}
HELD = {"golden": {"type": "toy_preferences", "part": "heldout"}}
JUDGE: dict[str, Any] = {
    "name": "judge",
    "type": "reward_model",
    "steps": 10,
    "data": {"families": PAIRS, "evaluation": HELD},
    "optim": {"learning_rate": 0.01},
    "batch": {"families": {"pairs": 6}},
}
BASE: tuple[Change, ...] = (
    lambda recipe: recipe["plugins"].append(toy.__file__),
    drop("data.evaluation"),
    drop("objective"),
    drop("rewards"),
)
ONE: tuple[Change, ...] = (*BASE, put("stages", [JUDGE]))
ALIGN: dict[str, Any] = {
    "name": "align",
    "steps": 2,
    "rewards": {"judge": {"type": "reward_model", "stage": "judge", "scale": [1, 5]}},
    "objective": {"terms": {"rl": {"loss": "grpo", "tokens": "all"}}},
    "evaluation": {"metrics": {}},
}
TWO: tuple[Change, ...] = (*BASE, put("stages", [JUDGE, ALIGN]))


def values(folder: Path, stage: str, split: str) -> list[dict[str, Any]]:
    return [each for each in comparable(folder / "metrics.jsonl") if (each["stage"], each["split"]) == (stage, split)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), *TWO)


def test_it_learns_which_answers_are_preferred(whole: Path) -> None:
    before, after = values(whole, "judge", "golden")
    assert (before["accuracy"], before["margin"]) == (0.5, 0.0), "a new head prefers none"
    assert after["accuracy"] == 1.0 and after["accuracy/count"] == 18
    assert after["accuracy/low"] == pytest.approx(18 / (18 + 1.959964**2), rel=1e-5)
    steps = values(whole, "judge", "train")
    assert steps[0]["loss/preference"] == pytest.approx(math.log(2), rel=1e-6)
    assert steps[-1]["loss/preference"] < 0.3
    assert steps[-1]["preference/margin"] > 1


def test_every_pair_is_kept_so_that_two_reward_models_can_be_compared(whole: Path) -> None:
    notes: list[str] = []
    golden = read_outcomes(whole, notes)["golden"]
    measured = values(whole, "judge", "golden")
    for split, line in ((golden.first, measured[0]), (golden.last, measured[-1])):
        assert len(split) == 18 and not notes
        for name in ("accuracy", "margin"):
            column = [each.values[name] for each in split.values()]
            assert sum(each for each in column if each is not None) / 18 == pytest.approx(line[name], rel=1e-6)
    found = compare([golden.last], [golden.first], "accuracy")
    assert found is not None and found.difference == 0.5 and found.shown(), "half of every tie was right"
    assert all(card.split != "golden" for card in before_and_after(read_run(whole))), "a pair is nobody's answer"


def test_what_it_leaves(whole: Path) -> None:
    folder = whole / "stages/judge"
    assert sorted(path.name for path in folder.iterdir()) == ["complete.json", "reward_model"]
    card = read_card(folder / "reward_model", "here")
    after = values(whole, "judge", "golden")[-1]
    assert card.held_out["golden"].items() <= after.items(), "the card says what was measured at the end"
    (facet,) = card.facets
    assert (facet.name, facet.head, facet.unit) == ("preference", "row_values", "sequence")
    assert (facet.mean, facet.std) == (after["reward_mean"], after["reward_std"])
    assert (card.steps, card.dialogues, card.recipe) == (10, {"pairs": 60}, "toy")
    heads = load_file(folder / "reward_model/heads.safetensors")
    assert set(heads) == {f"scalar_heads.row_values_head.{part}" for part in ("weight", "bias")}
    network = load_file(folder / "reward_model/network/model.safetensors")
    assert not any("scalar_heads" in name for name in network)


def test_no_later_stage_starts_from_it(whole: Path, tmp_path: Path) -> None:
    trained = load_file(whole / "stages/judge/reward_model/network/model.safetensors")
    alone = run(tmp_path / "alone", *BASE, put("stages", [{**ALIGN, "rewards": {"exact": {"type": "toy_exact"}}}]))
    assert load_file(alone / "model/model.safetensors").keys() == trained.keys()
    (problem,) = problems(tmp_path, *BASE, put("stages", [JUDGE, {**ALIGN, "start": "judge"}]))
    assert "stage `judge` learns a reward and leaves no weights to start from" in problem.message


class Opened:
    """The reward of a stage over a reward model, and the rows that the stage held out."""

    def __init__(self, plan: Plan, folder: Path, **params: Any) -> None:
        self.builder = Builder(plan, World.single("cpu"), silent)
        self.live = self.builder.stage(plan.stages[0], None)
        self.plan = plan.stages[0]
        self.models = OpenModels(self.builder, self.plan, self.live.roller)
        self.address = str(folder)
        self.reward = self.made(**params)

    def made(self, **params: Any) -> Reward:
        plugin = self.builder.registry.get("reward", "reward_model")
        found = plugin(plugin.Params.model_validate({"model": self.address, **params}))  # type: ignore[call-arg]
        assert isinstance(found, Reward)
        found.prepare(self.models)
        return found

    def answers(self) -> list[tuple[Rollout, Dialogue]]:
        """Chosen and rejected answers as if the policy had said them, in the order of the split."""
        source = toy.Preferences(toy.PreferencesParams(part="heldout"), seed=0)
        singles = [single for index in range(len(source)) for single in source.record(index).singles[::-1]]
        groups = self.live.roller.gold(singles)
        return [(group.rollouts[0], group.dialogue) for group in groups]

    def scores(self, reward: Reward) -> torch.Tensor:
        rollouts, dialogues = zip(*self.answers(), strict=True)
        found = [each.value for each in reward.score_batch(rollouts, dialogues)]
        return torch.tensor(found, dtype=torch.float64)


@pytest.fixture(scope="module")
def opened(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    plan = compiled(tmp_path_factory.mktemp("opened"), *ONE)
    return Opened(plan, whole / "stages/judge/reward_model", output="raw")


def test_the_reward_is_what_the_training_computed(tmp_path: Path) -> None:
    """The loss's own numbers, those of the held-out pairs and those of the reward, of the same weights."""
    plan = compiled(tmp_path, *ONE)
    builder = Builder(plan, World.single("cpu"), silent)
    live = builder.stage(plan.stages[0], None)
    generator = torch.Generator().manual_seed(1)
    for each in live.backend.beside.values():
        each.copy_(torch.randn(each.shape, generator=generator))
    evaluator = pair_evaluator(builder, live)
    found = evaluator.judge(evaluator.network(live.backend.policy), "golden")["preference"]
    rows = [Row(each, "pairs", index // 2, index % 2) for index, each in enumerate(evaluator._rows["golden"])]
    batch = live.selection.collate(rows, number=0)
    output = live.backend.forward(
        batch.tokens, live.selection.union(batch), temperature=batch.temperature, support=None
    )
    torch.testing.assert_close(found.flatten(), output.scalars["row_values"].detach().double(), rtol=1e-6, atol=1e-7)
    assert float(found.std()) > 0.01
    assert not live.selection.union(batch).any(), "no log-prob is computed that nobody reads"
    live.close()


def test_the_reward_gives_what_the_stage_measured(opened: Opened, whole: Path) -> None:
    raw = opened.scores(opened.reward)
    after = values(whole, "judge", "golden")[-1]
    margins = raw[0::2] - raw[1::2]
    assert float(margins.mean()) == pytest.approx(after["margin"], rel=1e-6)
    assert float(raw.mean()) == pytest.approx(after["reward_mean"], rel=1e-4, abs=1e-6)
    assert float(raw.std()) == pytest.approx(after["reward_std"], rel=1e-6)


def test_one_answer_is_scored_as_among_others(opened: Opened) -> None:
    together = opened.scores(opened.reward)
    alone = [opened.reward.score(*each).value for each in opened.answers()]
    torch.testing.assert_close(torch.tensor(alone, dtype=torch.float64), together, rtol=1e-5, atol=1e-6)


def test_the_scales(opened: Opened) -> None:
    raw = opened.scores(opened.reward)
    standard = opened.made(output="standardised")
    assert standard.range == (-math.inf, math.inf)
    torch.testing.assert_close(opened.scores(standard), (raw - raw.mean()) / raw.std(), rtol=1e-6, atol=1e-6)
    bounded = opened.made()
    assert bounded.range == (0.0, 1.0)
    torch.testing.assert_close(opened.scores(bounded), torch.sigmoid((raw - raw.mean()) / raw.std()), rtol=1e-6, atol=0)


def test_degenerate_answers_have_a_number_within_the_range(opened: Opened) -> None:
    """Empty, mute and endlessly repeated answers; what they are worth is what the network has learned."""
    rollout, dialogue = opened.answers()[0]
    tokens, width = rollout.completion, rollout.completion.length
    empty = replace(
        rollout, completion=TokenSequence(tokens.ids[:, :0], tokens.roles[:, :0]), answer=Answer("", (), True)
    )
    mute = replace(rollout, answer=replace(rollout.answer, codes=()))
    again = replace(
        rollout, completion=TokenSequence(tokens.ids[:, :1].repeat(1, width), tokens.roles[:, :1].repeat(1, width))
    )
    bounded = opened.made()
    for each in (empty, mute, again):
        value = bounded.score(each, dialogue).value
        assert value is not None and 0.0 <= value <= 1.0


def test_equal_models_are_loaded_once(opened: Opened) -> None:
    assert opened.models.open(opened.address) is opened.models.open(opened.address)


def test_a_facet_that_it_does_not_judge_is_named(opened: Opened) -> None:
    with pytest.raises(PreflightError, match="has no facet `rhythm`") as caught:
        opened.made(facets={"rhythm": 1})
    assert caught.value.hint == "it has preference"


def test_it_scores_what_a_later_stage_samples(whole: Path) -> None:
    first = values(whole, "align", "train")[0]
    assert 1 <= first["reward/judge"] <= 5
    assert first["reward/judge/failed"] == 0
    sampled = [each for each in comparable(whole / "rollouts.jsonl") if each["stage"] == "align"]
    assert sampled


# --- facets -----------------------------------------------------------------------------------------------------------


FACETS: tuple[Change, ...] = (
    *BASE,
    put(
        "stages",
        [
            {
                **JUDGE,
                "data": {
                    "families": {**PAIRS, "brevity": {"type": "toy_preferences", "about": "brevity"}},
                    "evaluation": HELD,
                },
                "batch": {"families": {"pairs": 6, "brevity": 6}},
                "objective": {
                    "terms": {
                        "phrase": {"loss": {"type": "bradley_terry", "head": "phrase"}},
                        "brevity": {
                            "loss": {"type": "bradley_terry", "head": "brevity", "pooling": "mean"},
                            "family": "brevity",
                        },
                    }
                },
            }
        ],
    ),
)


def test_facets_have_heads_of_their_own(tmp_path: Path) -> None:
    """One learns that sentences are better, the other the reverse, from the same states."""
    folder = run(tmp_path, *FACETS)
    after = values(folder, "judge", "golden")[-1]
    assert after["phrase/accuracy"] == 1.0
    assert after["brevity/accuracy"] == 0.0
    card = read_card(folder / "stages/judge/reward_model", "here")
    assert [(each.name, each.head, each.unit) for each in card.facets] == [
        ("phrase", "phrase", "sequence"),
        ("brevity", "brevity", "token"),
    ]
    judge = Opened(compiled(tmp_path, *ONE), folder / "stages/judge/reward_model", facets={"phrase": 1})
    phrase, both = judge.scores(judge.reward), judge.scores(judge.made(facets={"phrase": 3, "brevity": 1}))
    brevity = judge.scores(judge.made(facets={"brevity": 1}))
    assert bool((phrase[0::2] > phrase[1::2]).all()) and bool((brevity[0::2] < brevity[1::2]).all())
    torch.testing.assert_close(both, (3 * phrase + brevity) / 4)


# --- resuming, several processes --------------------------------------------------------------------------------------


class Cut(Signals):
    """Stops the run as suddenly as a kill while a step is told."""

    def step(self, values: Any, steps_done: int) -> None:
        if steps_done == self.at:
            raise Stop

    def evaluation(self, split: str, values: Any, when: str) -> None:
        return


def assert_same(found: Path, wanted: Path) -> None:
    """Every line and every byte of what is left."""
    assert comparable(found / "metrics.jsonl") == comparable(wanted / "metrics.jsonl")
    names = sorted(str(each.relative_to(wanted)) for each in (wanted / "stages").rglob("*") if each.is_file())
    assert names == sorted(str(each.relative_to(found)) for each in (found / "stages").rglob("*") if each.is_file())
    for name in (each for each in names if not each.endswith("complete.json")):
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name


@pytest.mark.parametrize("at", [3, 9])
def test_killed_and_resumed_bit_for_bit(whole: Path, tmp_path: Path, at: int) -> None:
    with pytest.raises(Stop):
        run(tmp_path, *TWO, observer=Cut(at))
    assert_same(run(tmp_path, *TWO, resume=True), whole)


def test_killed_while_the_model_was_left(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(reward_artifact, "save_file", stop)
        with pytest.raises(Stop):
            run(tmp_path, *TWO)
    assert not (tmp_path / "run/stages/judge/reward_model").exists()
    assert_same(run(tmp_path, *TWO, resume=True), whole)


def rank(world: World, plan: str, folder: str) -> bool:
    Trainer(Plan.from_json(plan), RunFolder(Path(folder)), world, Signals(-1)).run(resume=False)
    return True


@pytest.mark.parametrize("engine", [{"type": "plain"}, {"type": "deepspeed", "zero": 3}])
def test_two_processes(whole: Path, tmp_path: Path, engine: dict[str, Any]) -> None:
    (tmp_path / "run").mkdir()
    plan = compiled(tmp_path, *TWO, put("runtime.processes", 2), put("runtime.engine", engine))
    assert run_ranks(rank, 2, plan.to_json(), str(tmp_path / "run")) == [True, True]
    ours, theirs = (values(each, "judge", "golden")[-1] for each in (tmp_path / "run", whole))
    assert ours.keys() == theirs.keys()
    assert ours["accuracy/count"] == 18
    assert ours["margin"] == pytest.approx(theirs["margin"], rel=1e-3)
    first, last = (values(each, "align", "train")[0]["reward/judge"] for each in (tmp_path / "run", whole))
    assert first == pytest.approx(last, rel=1e-3)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        (put("stages", [{**JUDGE, "steps": 0}]), "steps", "without steps learns nothing"),
        (
            put("stages", [{**JUDGE, "data": {"families": PAIRS}}]),
            "data.evaluation",
            "needs data.evaluation: held-out pairs",
        ),
        (
            put("stages", [{**JUDGE, "objective": {"terms": {"rl": {"loss": "grpo"}}}}]),
            "objective.terms.rl",
            "learns from rollouts, and a reward_model stage samples none",
        ),
        (
            put("stages", [{**JUDGE, "objective": {"terms": {"sft": {"loss": "cross_entropy", "family": "pairs"}}}}]),
            "objective.terms",
            "no term of the reward_model stage reads a scalar output",
        ),
        (
            put("stages", [JUDGE, {**ALIGN, "rewards": {"judge": {"type": "reward_model", "stage": "juge"}}}]),
            "rewards.judge.stage",
            "`juge` is not an earlier stage",
        ),
        (
            put("stages", [{"name": "a", "steps": 1, **{k: ALIGN[k] for k in ("evaluation",)},
                            "objective": {"terms": {"sft": {"loss": "cross_entropy"}}}},
                           {**ALIGN, "rewards": {"judge": {"type": "reward_model", "stage": "a"}}}]),
            "rewards.judge.stage",
            "`a` leaves no reward model",
        ),
        (
            put("stages", [JUDGE, {**ALIGN, "rewards": {"judge": {"type": "toy_exact", "stage": "judge"}}}]),
            "rewards.judge.stage",
            "a reward of type toy_exact reads no reward model",
        ),
        (
            put("stages", [JUDGE, {**ALIGN, "rewards": {"judge": {"type": "reward_model"}}}]),
            "rewards.judge",
            "model",
        ),
        (
            put("stages", [JUDGE, {**ALIGN, "rollout": {"truncated": "lowest"}, "rewards": {
                "judge": {"type": "reward_model", "stage": "judge", "output": "standardised"}}}]),
            "rewards.judge",
            "has no lowest value for answers that are cut off",
        ),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_say(tmp_path: Path, change: Change, path: str, message: str) -> None:
    found = problems(tmp_path, *BASE, change)
    assert any(path in each.path and message in f"{each.path} {each.message}" for each in found), found
    assert all(each.where for each in found)


def test_a_held_out_record_that_is_no_pair(tmp_path: Path) -> None:
    single = {"golden": {"type": "toy_preferences", "part": "heldout", "single": True}}
    stage = {**JUDGE, "data": {"families": PAIRS, "evaluation": single}}
    with pytest.raises(DataError, match=r"data\.evaluation\.golden of a reward_model stage holds pairs"):
        run(tmp_path, *BASE, put("stages", [stage]))
    assert not (tmp_path / "run/checkpoints").exists() or not any((tmp_path / "run/checkpoints").iterdir())


def by_address(folder: Path, address: Path) -> tuple[Change, ...]:
    """A run that scores with a reward model that lies somewhere."""
    return (*BASE, put("stages", [{**ALIGN, "rewards": {"judge": {"type": "reward_model", "model": str(address)}}}]))


def test_a_reward_model_by_its_address(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "stages/judge/reward_model", tmp_path / "judge")
    first = values(run(tmp_path, *by_address(tmp_path, tmp_path / "judge")), "align", "train")[0]
    assert 0 < first["reward/judge"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": {"texts": "0" * 16}}, "has another tokenizer than the policy"),
        ({"tokens": {"vocabulary_size": 99}}, "knows 99 ids, and the policy 48"),
        ({"tokens": {"num_codes": 8}}, "knows 8 codes, and the policy 4"),
        ({"architecture": {"type": "kimi"}}, "is of architecture kimi, and the policy of vita"),
    ],
)
def test_one_of_another_tokenizer_is_refused_before_the_run(
    whole: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    shutil.copytree(whole / "stages/judge/reward_model", tmp_path / "judge")
    path = tmp_path / "judge/reward_model.json"
    card = json.loads(path.read_text())
    for key, part in change.items():
        card[key] |= part
    path.write_text(json.dumps(card))
    with pytest.raises(PreflightError, match=message) as caught:
        run(tmp_path, *by_address(tmp_path, tmp_path / "judge"))
    assert caught.value.message.startswith("rewards.judge.model: ")
    assert "train one from this policy" in caught.value.hint
    assert not (tmp_path / "run/metrics.jsonl").exists() or not (tmp_path / "run/metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "is no reward model: it has no reward_model.json"),
        (lambda path: path.write_text("{"), "is damaged"),
        (lambda path: path.write_text('{"format": 2}'), "is damaged: format"),
    ],
)
def test_what_is_no_reward_model(whole: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    shutil.copytree(whole / "stages/judge/reward_model", tmp_path / "judge")
    spoil(tmp_path / "judge/reward_model.json")
    with pytest.raises(PreflightError, match=message):
        run(tmp_path, *by_address(tmp_path, tmp_path / "judge"))


def test_rounds_score_with_their_own(tmp_path: Path) -> None:
    stages = [{"repeat": 2, "name": "round", "stages": [{**JUDGE, "steps": 1}, {**ALIGN, "steps": 1}]}]
    plan = compiled(tmp_path, *BASE, put("stages", stages))
    named = {stage.name: _stage_of(stage) for stage in plan.stages if "judge" in stage.stage.rewards}
    assert named == {"round-1.align": "round-1.judge", "round-2.align": "round-2.judge"}


def _stage_of(stage: StagePlan) -> str | None:
    reward = stage.stage.rewards["judge"]
    assert reward.params["model"] == f"stage://{reward.stage}"
    return reward.stage
