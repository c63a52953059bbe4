"""Problems as text, as JSON and as annotations of a change."""

import json

import pytest

from tests.schema.conftest import Bench
from wavalign.errors import Problem, Where
from wavalign.schema.loading import render_problems

AT = Where("a.yaml", 7, 5, "    wieght: 1")


def test_text_shows_the_line_and_a_caret() -> None:
    problem = Problem("unknown_key", "x.wieght", "unknown key `wieght`", "did you mean `weight`?", AT)
    assert render_problems([problem]) == (
        "a.yaml:7:5  x.wieght  unknown key `wieght`  did you mean `weight`?\n  7 |     wieght: 1\n    |     ^"
    )


def test_text_names_the_origin_of_inherited_values(bench: Bench) -> None:
    bench.write({"base.yaml": "name: x\nmodel: {architecture: vita}\nsed: 1\n"})
    text = render_problems(bench.problems("extends: base.yaml\n"))
    assert text == (
        "base.yaml:3:1  sed  unknown key `sed`  did you mean `seed`?  (from base.yaml:3)\n  3 | sed: 1\n    | ^"
    )


def test_text_of_an_override(bench: Bench, valid: str) -> None:
    text = render_problems(bench.problems(valid, "rollout.group_size=0"))
    assert text == (
        "--set:1:20  rollout.group_size  must be at least 1, got 0\n"
        "   | rollout.group_size=0\n"
        "   |                    ^"
    )


def test_a_long_line_is_cut_around_the_caret() -> None:
    line = "a: [" + "1, " * 200 + "x]"
    excerpt = render_problems([Problem("c", "a", "m", "", Where("f", 1, line.index("x") + 1, line))]).split("\n")
    assert max(len(row) for row in excerpt) < 140
    assert excerpt[1][excerpt[2].index("^")] == "x"


def test_the_caret_stands_under_the_place_after_tabs() -> None:
    excerpt = render_problems([Problem("c", "", "m", "", Where("f", 1, 2, "\tb: 1"))]).split("\n")
    assert excerpt[1][excerpt[2].index("^")] == "b"


@pytest.mark.parametrize("color", [True, False])
def test_a_recipe_cannot_paint_the_terminal(color: bool) -> None:
    hostile = "\x1b]0;title\x07"
    text = render_problems([Problem("c", hostile, hostile, hostile, Where("f", 1, 1, hostile))], color=color)
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert ("\x1b[31m" in text) is color


def test_json() -> None:
    first, second = json.loads(
        render_problems([Problem("unknown_key", "p", "m", "h", AT), Problem("c", "", "n")], "json")
    )
    assert first == {
        "code": "unknown_key",
        "path": "p",
        "message": "m",
        "hint": "h",
        "file": "a.yaml",
        "line": 7,
        "column": 5,
        "text": "    wieght: 1",
        "via": "",
    }
    assert second["file"] is None


def test_github() -> None:
    where = Where("a,b.yaml", 7, 5, "")
    problems = [Problem("c", "p", "50% of\nit", "h", where), Problem("c", "p", "m", "", Where("--set", 1, 3, "a=b"))]
    assert render_problems(problems, format="github") == (
        "::error file=a%2Cb.yaml,line=7,col=5,title=c::p: 50%25 of%0Ait (h)\n::error title=c::p: m"
    )


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="xml"):
        render_problems([], "xml")
