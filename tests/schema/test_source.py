"""Files, what they extend, what the command line sets, and whose place a value has."""

import os
from pathlib import Path

import pytest

from tests.schema.conftest import Bench
from wavalign.errors import Problem, RecipeError
from wavalign.schema.composer import MAX_BYTES
from wavalign.schema.source import MAX_CHAIN, read_source


def complaints(path: str, *overrides: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        read_source(path, overrides)
    return list(caught.value.problems)


def complaint(path: str, *overrides: str) -> tuple[str, str]:
    (problem,) = complaints(path, *overrides)
    return problem.code, str(problem.where)


@pytest.mark.parametrize(
    ("content", "code", "place"),
    [
        (b"", "empty_file", "1:1"),
        (b"# nothing\n", "empty_file", "1:1"),
        (b"- a\n- b\n", "not_a_mapping", "1:1"),
        (b"\n  hello\n", "not_a_mapping", "2:3"),
        (b"\xef\xbb\xbfname: x\n", "bad_encoding", "1:1"),
        ("name: x\n".encode("utf-16"), "bad_encoding", "1:1"),
        (b"name: x\ndescription: caf\xe9\n", "bad_encoding", "2:17"),
        (b"a: 1\n" + b"#" * MAX_BYTES, "yaml_too_large", "1:1"),
    ],
)
def test_bad_file(bench: Bench, content: bytes, code: str, place: str) -> None:
    bench.write({"r.yaml": content})
    assert complaint("r.yaml") == (code, f"r.yaml:{place}")


def test_missing_file_suggests_a_neighbour(bench: Bench) -> None:
    bench.write({"sub/align.yaml": "a: 1"})
    (problem,) = complaints("sub/algin.yaml")
    assert (problem.code, str(problem.where)) == ("missing_file", "sub/algin.yaml:1:1")
    assert "sub/align.yaml" in problem.hint
    assert "no folder" in complaints("nowhere/algin.yaml")[0].hint


def test_a_folder_is_no_recipe(bench: Bench) -> None:
    (bench.folder / "d").mkdir()
    assert complaint("d") == ("unreadable_file", "d:1:1")


def test_merging(bench: Bench) -> None:
    bench.write(
        {
            "base/root.yaml": "a: {x: 1, y: {p: 1}}\nl: [1, 2]\nk: {m: 1}\ns: 1\n",
            "base/mid.yaml": "extends: root.yaml\na: {y: {q: 2}}\ns: {t: 1}\n",
            "r.yaml": "extends: base/mid.yaml\na: {x: 3}\nl: [9]\nk: !replace {n: 2}\n",
        }
    )
    source = read_source("r.yaml")
    assert source.tree == {"a": {"x": 3, "y": {"p": 1, "q": 2}}, "l": [9], "k": {"n": 2}, "s": {"t": 1}}
    assert [Path(file).name for file in source.files] == ["r.yaml", "mid.yaml", "root.yaml"]
    assert str(source.marks["a", "x"]) == "r.yaml:2:8"
    assert source.marks["a", "x"].via == ""
    inherited = source.marks["a", "y", "p"]
    assert (str(inherited), inherited.via) == ("base/root.yaml:1:18", "from root.yaml:1")
    assert (str(source.keys["a", "y", "q"]), source.keys["a", "y", "q"].via) == ("base/mid.yaml:2:9", "from mid.yaml:2")


def test_cycle_names_the_whole_chain(bench: Bench) -> None:
    bench.write({"a.yaml": "extends: b.yaml", "b.yaml": "extends: ./d/c.yaml", "d/c.yaml": "x: 1\nextends: ../a.yaml"})
    (problem,) = complaints("a.yaml")
    assert (problem.code, str(problem.where)) == ("extends_cycle", "d/c.yaml:2:10")
    assert "a.yaml -> b.yaml -> d/c.yaml -> a.yaml" in problem.message


def test_chain_is_limited(bench: Bench) -> None:
    bench.write({f"{n}.yaml": f"extends: {n + 1}.yaml" for n in range(MAX_CHAIN + 1)})
    (problem,) = complaints("0.yaml")
    assert problem.code == "extends_chain"


@pytest.mark.parametrize("value", ["[a.yaml]", "3", "''", "s3://bucket/a.yaml", "{a: b}", ""])
def test_extends_takes_one_file(bench: Bench, value: str) -> None:
    bench.write({"r.yaml": f"a: 1\nextends: {value}\n"})
    code, _ = complaint("r.yaml")
    assert code == "bad_extends"


def test_missing_base_is_shown_where_it_is_named(bench: Bench) -> None:
    bench.write({"r.yaml": "a: 1\nextends: gone.yaml\n"})
    assert complaint("r.yaml") == ("missing_file", "r.yaml:2:10")


def test_a_base_that_is_a_pipe_is_not_waited_for(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    bench.write({"r.yaml": f"name: x\nextends: {tmp_path / 'pipe.yaml'}\n"})
    (problem,) = complaints("r.yaml")
    assert (problem.code, str(problem.where)) == ("unreadable_file", "r.yaml:2:10")
    assert "a pipe or a device" in problem.message


def test_mistake_in_a_base(bench: Bench) -> None:
    bench.write({"b.yaml": "x: 1\nx: 2\n", "r.yaml": "extends: b.yaml\ny: .inf\n"})
    found = complaints("r.yaml")
    assert [(each.code, str(each.where)) for each in found] == [
        ("non_finite", "r.yaml:2:4"),
        ("duplicate_key", "b.yaml:2:1"),
    ]
    assert found[1].where is not None
    assert found[1].where.via == "from b.yaml:2"


def test_set(bench: Bench) -> None:
    bench.write({"r.yaml": "a: {x: 1, l: [1, {m: 2}]}\nn:\n"})
    source = read_source(
        "r.yaml", ["a.x=1e-6", "a.l.1.m=yes", "a.l.2=[3]", "new.deep.key={p: 1}", "n.z=", "a.e=x=y", "new.deep.key.q=2"]
    )
    assert source.tree == {
        "a": {"x": 1e-6, "l": [1, {"m": "yes"}, [3]], "e": "x=y"},
        "n": {"z": None},
        "new": {"deep": {"key": {"p": 1, "q": 2}}},
    }
    mark = source.marks["a", "x"]
    assert (str(mark), mark.text, mark.via) == ("--set:1:5", "a.x=1e-6", "--set")
    assert str(source.keys["a", "x"]) == "--set:1:1"
    assert str(source.marks["new", "deep", "key", "p"]) == "--set:1:18"


def test_set_replaces_a_mapping_only_when_told(bench: Bench) -> None:
    bench.write({"r.yaml": "a: {x: 1}\nb: {x: 1}\n"})
    assert read_source("r.yaml", ["a={y: 2}", "b=!replace {y: 2}"]).tree == {"a": {"x": 1, "y": 2}, "b": {"y": 2}}


@pytest.mark.parametrize(
    ("argument", "code", "column"),
    [
        ("a", "bad_override", 1),
        ("=1", "bad_override", 1),
        ("a..b=1", "bad_override", 1),
        (" a=1", "bad_override", 1),
        ("extends=b.yaml", "bad_override", 1),
        ("s.t=1", "bad_override", 1),
        ("l.5=1", "bad_override", 1),
        ("l.x=1", "bad_override", 1),
        ("l.-1=1", "bad_override", 1),
        ("l.99999999999999999999=1", "bad_override", 1),
        ("s=.nan", "non_finite", 3),
        ("s={a: 1, a: 2}", "duplicate_key", 10),
        ("s='x", "yaml_syntax", 3),
        ("s=!!str 1", "yaml_tag", 3),
        (".".join("a" * 40) + "=1", "bad_override", 1),
    ],
)
def test_bad_set(bench: Bench, argument: str, code: str, column: int) -> None:
    bench.write({"r.yaml": "s: 1\nl: [1]\n"})
    (problem,) = complaints("r.yaml", argument)
    assert (problem.code, str(problem.where)) == (code, f"--set:1:{column}")
    assert problem.where is not None
    assert problem.where.text == argument


def test_names_in_messages_are_those_asked_for(bench: Bench) -> None:
    bench.write({"deep/r.yaml": "a: .nan"})
    full = str(bench.folder / "deep" / "r.yaml")
    assert complaint(full) == ("non_finite", f"{full}:1:4")
