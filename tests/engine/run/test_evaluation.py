"""What is kept of every held-out item, and which answers are kept with their sound."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import pytest

from tests.e2e.runs import lines
from tests.toy.compiled import compiled, put
from tests.toy.live import evaluated_stage
from wavalign.engine import api
from wavalign.engine.run.evaluation import Evaluator, Item, Verdict
from wavalign.errors import PluginError
from wavalign.plugins.api import Detail, Measurement, Metric
from wavalign.plugins.batch import RolloutGroup
from wavalign.schema.base import Params
from wavalign.schema.evaluation import EvaluationSection


@final
class Odd(Metric):
    """Says what a test tells it to."""

    type = "odd"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def __init__(self, items: Sequence[Any], details: Sequence[Any] | None = None, name: str = "odd") -> None:
        super().__init__(Params())
        self.items, self.details, self.name = tuple(items), {} if details is None else {"note": tuple(details)}, name

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return [Measurement(self.name, 0.5, 0.0, 1.0, 2, items=self.items, details=self.details)]


def test_every_held_out_item_of_every_evaluation_has_its_line(tmp_path: Path) -> None:
    api.run(compiled(tmp_path, put("evaluation.every", 3), put("evaluation.samples", 5)))
    run = tmp_path / "run"
    found = lines(run / "evaluation.jsonl")
    for line in lines(run / "metrics.jsonl"):
        if line["split"] == "train":
            continue
        mine = [each for each in found if (each["stage"], each["step"]) == (line["stage"], line["step"])]
        assert [each["item"] for each in mine] == list(range(36))
        values = [each["values"]["accuracy"] for each in mine]
        assert sum(values) / len(values) == pytest.approx(line["accuracy"])
    assert sorted({each["step"] for each in found}) == [0, 3, 6]
    first = found[0]
    assert set(first) == {
        "stage", "step", "split", "item", "dialogue", "question", "text", "reference", "finished", "values", "details"
    }  # fmt: skip
    assert (first["dialogue"], first["question"], first["reference"]) == ("sum-0-0", "zero plus zero", "it is zero")
    assert first["details"] == {"said": first["text"]}


def test_samples_carry_the_verdict_and_the_one_on_the_gold_answer(tmp_path: Path) -> None:
    api.run(compiled(tmp_path, put("evaluation.samples", 4), put("evaluation.suspicious", 0)))
    samples = [each for each in lines(tmp_path / "run" / "rollouts.jsonl") if each["split"] != "train"]
    items = {(each["step"], each["item"]): each for each in lines(tmp_path / "run" / "evaluation.jsonl")}
    assert [each["item"] for each in samples] == [0, 9, 18, 27] * 2
    for each in samples:
        assert (each["values"], each["details"]) == tuple(
            items[each["step"], each["item"]][x] for x in ("values", "details")
        )
        assert each["reference_values"] == {"accuracy": 1.0}
        assert each["reference_details"] == {"said": each["reference"]}


def evaluator(tmp_path: Path, metrics: dict[str, Metric], **section: Any) -> tuple[Evaluator, Any]:
    live, whole = evaluated_stage(compiled(tmp_path, put("data.evaluation", {"type": "toy_sums", "limit": 2})))
    chosen = EvaluationSection(**section)
    made = Evaluator(whole.roller, whole.splits, metrics, section=chosen, max_new_tokens=5)
    return made, live.backend.policy


@pytest.mark.parametrize(
    ("items", "details", "said"),
    [
        ((1.0,), None, r"metric `m`: items of `odd`: 1 for 2 groups"),
        ((1.0, float("nan")), None, r"metric `m`: items of `odd`: nan is no number"),
        ((1.0, "yes"), None, r"metric `m`: items of `odd`: 'yes' is no number"),
        ((1.0, 0.0), ("a",), r"metric `m`: detail `note`: 1 for 2 groups"),
        ((1.0, 0.0), ("a", ["b"]), r"metric `m`: detail `note`: list is neither text nor a number"),
    ],
)
def test_outcomes_that_are_not_one_for_each_item_are_the_metrics_fault(
    tmp_path: Path, items: Sequence[Any], details: Sequence[Any] | None, said: str
) -> None:
    made, policy = evaluator(tmp_path, {"m": Odd(items, details)})
    with pytest.raises(PluginError, match=said):
        list(made.run(policy, lambda what, done, total: None))


def test_two_metrics_may_use_one_name(tmp_path: Path) -> None:
    inf = float("inf")
    metrics: dict[str, Metric] = {
        "m": Odd((1, 0), ("a", inf)),
        "n": Odd((None, 1), ("b", None)),
        "p": Odd((), name="p"),
    }
    made, policy = evaluator(tmp_path, metrics)
    (result,) = made.run(policy, lambda what, done, total: None)
    assert [item.verdict for item in result.items] == [
        Verdict({"odd": 1.0, "n.odd": None}, {"note": "a", "n.note": "b"}),
        Verdict({"odd": 0.0, "n.odd": 1.0}, {"note": "inf", "n.note": None}),
    ]
    assert result.measures["n.odd"] == {"metric": "n", "unit": "", "says": "Says what a test tells it to."}


def test_of_the_others_the_suspicious_ones_are_kept_too(tmp_path: Path) -> None:
    made, policy = evaluator(tmp_path, {}, samples=2, suspicious=2)
    (result,) = made.run(policy, lambda what, done, total: None)
    group = result.items[0].group
    (rollout,) = group.rollouts

    def item(index: int, text: str, *, finished: bool = True, **details: Detail) -> Item:
        answer = replace(rollout, answer=replace(rollout.answer, text=text, finished=finished))
        return Item(index, replace(group, rollouts=(answer,)), Verdict({}, details))

    items = [
        item(0, "fine"), item(1, "fine"), item(2, "cut", finished=False), item(3, "fine", heard="fine"),
        item(4, "fine"), item(5, "fine", heard="other words"), item(6, ""), item(7, "fine"),
    ]  # fmt: skip
    assert [each.index for each in made._samples(items)] == [0, 2, 4, 5]


def test_the_gold_answers_may_be_left_unmeasured(tmp_path: Path) -> None:
    api.run(compiled(tmp_path, put("evaluation.ceiling", False)))
    held = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if line["split"] != "train"]
    assert held and not any("ceiling" in key for line in held for key in line)


def test_held_out_prompts_are_written_once_however_often_they_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, whole = evaluated_stage(compiled(tmp_path, put("data.evaluation", {"type": "toy_sums", "limit": 5})))
    written: list[str] = []
    encode = type(live.architecture).encode_prompt

    def counted(self: Any, dialogue: Any, encode_audio: Any) -> Any:
        written.append(dialogue.id)
        return encode(self, dialogue, encode_audio)

    monkeypatch.setattr(type(live.architecture), "encode_prompt", counted)
    policy = live.backend.policy
    first, second = ([dict(each.values) for each in whole.run(policy, lambda *said: None)] for _ in range(2))
    live.close()
    assert len(written) == len(set(written)) == 5
    assert [{k: v for k, v in each.items() if k != "evaluation_seconds"} for each in first] == [
        {k: v for k, v in each.items() if k != "evaluation_seconds"} for each in second
    ]
