"""Rounds of sampling, pairing, preferring and measuring: what each starts from and keeps, and a run that goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.e2e.runs import comparable, lines
from tests.engine.run.test_trainer import Stop, run
from tests.toy.compiled import Change, put
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.stages.dataset import DatasetPart
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import ResumeError

SAMPLE = {"name": "sample", "type": "generate", "generate": {"limit": 12, "chunk": 4}, "rollout": {"group_size": 1}}
PAIR = {
    "name": "pair",
    "type": "pairs",
    "data": {"samples": [{"type": "jsonl", "stage": "sample"}]},
    "pairs": {"type": "golden", "merge": "previous", "length_ratio": None, "finished": [], "chunk": 5},
}
TRAIN = {
    "name": "train",
    "steps": 2,
    "data": {"families": {"pairs": [{"type": "jsonl", "stage": "pair"}]}},
    "evaluation": {"at_start": False, "at_end": False},
}
MEASURE = {"name": "measure", "type": "evaluate"}
DPO = {"terms": {"dpo": {"loss": {"type": "dpo"}, "family": "pairs", "tokens": "all"}}}
BODY = ("sample", "pair", "train", "measure")


def staged(count: int = 2, merge: str = "previous") -> tuple[Change, ...]:
    pair = {**PAIR, "pairs": {**PAIR["pairs"], "merge": merge}}  # type: ignore[dict-item]
    return (
        put("stages", [{"repeat": count, "name": "round", "stages": [SAMPLE, pair, TRAIN, MEASURE]}]),
        put("objective", DPO),
        put("batch.families", {"pairs": 4}),
        put("data.evaluation", {"type": "toy_sums", "limit": 6}),
    )


def made(folder: Path, stage: str) -> list[dict[str, Any]]:
    (path,) = (folder / "stages" / stage / "data").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(found: Path, wanted: Path) -> None:
    """The same lines, the same weights, and every data set byte for byte."""
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        assert comparable(found / name) == comparable(wanted / name)
    for number in (1, 2):
        ours, theirs = (
            load_file(each / f"stages/round-{number}.train/model/model.safetensors") for each in (found, wanted)
        )
        assert all(ours[name].equal(theirs[name]) for name in theirs)
        for stage in ("sample", "pair"):
            root = Path(f"stages/round-{number}.{stage}")
            files = sorted(path.relative_to(wanted) for path in (wanted / root).rglob("*") if path.is_file())
            kept = [path for path in files if path.name != "complete.json"]
            assert kept and [(found / path).read_bytes() for path in kept] == [
                (wanted / path).read_bytes() for path in kept
            ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), *staged())


def test_the_reference_is_what_the_round_starts_from(whole: Path) -> None:
    """At a round's first step policy and reference are one: no margin. The second round's are those of the first."""
    steps = {(each["stage"], each["step"]): each for each in lines(whole / "metrics.jsonl") if each["split"] == "train"}
    margins = {
        key: next(value for name, value in each.items() if name.endswith("margin")) for key, each in steps.items()
    }
    assert margins["round-1.train", 1] == pytest.approx(0, abs=1e-5)
    assert margins["round-2.train", 3] == pytest.approx(0, abs=1e-5)
    assert abs(margins["round-1.train", 2]) > 1e-4 and abs(margins["round-2.train", 4]) > 1e-4
    models = [json.loads((whole / f"stages/round-{n}.sample/dataset.json").read_text())["model"] for n in (1, 2)]
    assert models[0] != models[1], "the second round samples from what the first left"


def test_pairs_of_the_round_before_are_kept(whole: Path, tmp_path: Path) -> None:
    first, second = made(whole, "round-1.pair"), made(whole, "round-2.pair")
    new = [each for each in second if each["metadata"]["pair"]["round"] == 2]
    assert [each for each in second if each["metadata"]["pair"]["round"] == 1] == first
    assert len(new) + len(first) == len(second) and new
    counts = json.loads((whole / "stages/round-2.pair/dataset.json").read_text())
    assert (counts["pairs"], counts["merged"], counts["round"]) == (len(new), len(first), 2)
    models = [{each["metadata"]["pair"]["rejected"]["model"] for each in part} for part in (first, new)]
    assert len(models[0]) == len(models[1]) == 1 and models[0] != models[1]


@pytest.mark.parametrize(("merge", "rounds"), [("previous", [2, 3]), ("all", [1, 2, 3]), ("none", [3])])
def test_of_three_rounds(tmp_path: Path, merge: str, rounds: list[int]) -> None:
    """SpeechAlign learns from the new pairs and those that the round before made; not from what that one had merged."""
    folder = run(tmp_path, *staged(3, merge))
    found = made(folder, "round-3.pair")
    assert sorted({each["metadata"]["pair"]["round"] for each in found}) == rounds
    assert len({each["id"] for each in found}) == len(found)


@pytest.mark.parametrize(
    ("owner", "name", "at"),
    [
        (DatasetPart, "append", 2),  # sampling in the first round
        (DatasetPart, "append", 5),  # pairing in the first round
        (StepExecutor, "step", 2),
        (Measuring, "measure", 1),
        (DatasetPart, "append", 8),  # sampling in the second
        (DatasetPart, "append", 12),  # pairing, past the new ones
        (StepExecutor, "step", 4),
        (Measuring, "measure", 2),
    ],
)
def test_killed_in_any_stage_and_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int
) -> None:
    original, seen = owner.__dict__[name], 0

    def stopped(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == at:
            raise Stop
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopped)
        with pytest.raises(Stop):
            run(tmp_path / "cut", *staged())
    run(tmp_path / "cut", *staged(), resume=True)
    assert_same(tmp_path / "cut" / "run", whole)


def test_another_recipe_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what was done is touched, and the first recipe still goes on."""
    step, seen = StepExecutor.step, 0

    def stopped(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise Stop
        return step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(StepExecutor, "step", stopped)
        with pytest.raises(Stop):
            run(tmp_path, *staged())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for changed in (staged(3), staged(2, "all"), (*staged(), put("optim.learning_rate", 0.5))):
        with pytest.raises(ResumeError) as caught:
            run(tmp_path, *changed, resume=True)
        assert caught.value.exit_code == 7
        after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        assert {path: after.get(path) for path in before if path.name != "log.txt"} == {
            path: content for path, content in before.items() if path.name != "log.txt"
        }
    run(tmp_path, *staged(), resume=True)
    assert (tmp_path / "run/finished.json").exists()
