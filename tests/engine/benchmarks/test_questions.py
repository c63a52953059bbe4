"""By what answers are judged: the subset that a path names, or what the data state."""

from typing import Any

import pytest

from wavalign.engine.benchmarks.questions import Benchmark, benchmark
from wavalign.errors import UsageError
from wavalign.plugins.batch import Dialogue, Message


def of(path: str, *rows: dict[str, Any], suite: str = "voicebench", **options: Any) -> Benchmark:
    dialogues = [
        Dialogue(
            f"row-{i}",
            (Message("user", "Q?"),),
            metadata={"benchmark": {"suite": suite, "row": row}} | ({"answer": row["a"]} if "a" in row else {}),
        )
        for i, row in enumerate(rows)
    ]
    return benchmark(dialogues, path, **{"limit": None, "subset": None, "task": None, **options})


@pytest.mark.parametrize(
    ("path", "subset", "task"),
    [
        ("hf://datasets/hlt-lab/voicebench/mmsu/law-00000-of-00001.parquet", "mmsu", "choice"),
        ("voicebench/alpacaeval_full/test-00000-of-00002.parquet", "alpacaeval_full", "open"),
        ("data/sd-qa/usa-00000-of-00001.parquet", "sd-qa", "reference"),
        ("naive-advbench-test-audio.jsonl", "advbench", "refusal"),
        ("bbh.jsonl", "bbh", "yes_no"),
        ("voicebench/ifeval", "ifeval", "instructions"),
    ],
)
def test_a_path_names_the_subset(path: str, subset: str, task: str) -> None:
    found = of(path, {"prompt": "Q?"})
    assert (found.subset, found.task, found.told) == (subset, task, False)


@pytest.mark.parametrize(
    ("rows", "suite", "task"),
    [
        ([{"a": "B"}, {"a": "(C)"}], "ultraeval", "choice"),
        ([{"a": "Yes"}, {"a": "no"}], "voicebench", "yes_no"),
        ([{"a": "Ada"}], "ultraeval", "reference"),
        ([{}], "voicebench", "open"),
        ([{"a": "x"}], "vstyle", "style"),
        ([{"instruction_id_list": []}], "voicebench", "instructions"),
    ],
)
def test_else_the_data_say_it(rows: list[dict[str, Any]], suite: str, task: str) -> None:
    assert of("some/file.jsonl", *rows, suite=suite).task == task


def test_a_person_may_say_both() -> None:
    found = of("x.jsonl", {"a": "B"}, subset="mine", task="reference")
    assert (found.subset, found.task, found.told) == ("mine", "reference", True)


def test_a_limit_is_spread_and_places_stay_those_of_the_data() -> None:
    found = of("x.jsonl", *({"n": i} for i in range(10)), limit=3)
    assert [each.place for each in found.questions] == [0, 3, 6] and found.total == 10
    assert [each.row["n"] for each in found.questions] == [0, 3, 6]


def test_no_questions_are_an_error() -> None:
    with pytest.raises(UsageError, match="holds no questions"):
        of("x.jsonl")
