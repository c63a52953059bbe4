"""Replies: exactly the declared form, or a failure with a reason; never a number made of something else."""

from typing import Any

import pytest

from tests.plugins.judging.server import completion
from wavalign.plugins.judging.parsing import ReplyError, reply_text, verdict
from wavalign.plugins.judging.rubric import Rubric

TAGS = Rubric.model_validate({"steps": {"all": {"instructions": "x", "axes": {"score": {}}}}})
HALVES = TAGS.model_copy(update={"halves": True, "justify": False})
TWO = Rubric.model_validate(
    {"steps": {"all": {"instructions": "x", "axes": {"semantic": {"weight": 3}, "voice": {"weight": 1}}}}}
)
JSON = TWO.model_copy(update={"form": "json"})
WHY = "<justification>fine, 5 of 5</justification>"


def read(text: str, rubric: Rubric = TAGS) -> dict[str, float]:
    return dict(verdict(text, rubric, next(iter(rubric.steps.values()))).values)


@pytest.mark.parametrize(
    ("text", "rubric", "values"),
    [
        (f"{WHY}<score>4</score>", TAGS, {"score": 4}),
        (f"\n {WHY}\n\n<score> 1 </score>\n", TAGS, {"score": 1}),
        (f"{WHY}<score>4.0</score>", TAGS, {"score": 4}),
        ("<score>3.5</score>", HALVES, {"score": 3.5}),
        (f"{WHY}<semantic>5</semantic><voice>2</voice>", TWO, {"semantic": 5, "voice": 2}),
        ('{"justification": "ok", "voice": 2, "semantic": 5.0}', JSON, {"semantic": 5, "voice": 2}),
    ],
)
def test_the_declared_form(text: str, rubric: Rubric, values: dict[str, float]) -> None:
    assert read(text, rubric) == values


def test_axes_are_weighed_and_what_was_not_asked_is_lowest() -> None:
    assert TWO.value({"semantic": 5, "voice": 2}) == pytest.approx((3 * 5 + 2) / 4)
    assert TWO.value({"semantic": 5}) == pytest.approx((3 * 5 + 1) / 4)


@pytest.mark.parametrize(
    "text",
    [
        "90",
        "4",
        "",
        "I cannot help with that.",
        f"{WHY}<score>90</score>",
        f"{WHY}<score>0</score>",
        f"{WHY}<score>6</score>",
        f"{WHY}<score>-4</score>",
        f"{WHY}<score>+4</score>",
        f"{WHY}<score>4/5</score>",
        f"{WHY}<score>4.5</score>",
        f"{WHY}<score>4.05</score>",
        f"{WHY}<score>04</score>",
        f"{WHY}<score>4e0</score>",
        f"{WHY}<score>four</score>",
        f"{WHY}<score>NaN</score>",
        f"{WHY}<score>inf</score>",
        f"{WHY}<score></score>",
        f"{WHY}<score>４</score>",
        f"{WHY}<score>٤</score>",
        f"{WHY}<score>3 4</score>",
        f"{WHY}<score>3</score><score>4</score>",
        f"{WHY}<score>4</score> and that is that",
        f"So: {WHY}<score>4</score>",
        f"<think>hm</think>{WHY}<score>4</score>",
        f"```{WHY}<score>4</score>```",
        "<justification>it says <score>5</score></justification><score>1</score>",
        f"{WHY}{WHY}<score>4</score>",
        "<score>4</score>",
        f"<score>4</score>{WHY}",
        f"{WHY}<SCORE>4</SCORE>",
        f"{WHY}<score>4",
        f"{WHY}<score>" + "9" * 5000 + "</score>",
    ],
)
def test_anything_else_is_no_number(text: str) -> None:
    with pytest.raises(ReplyError) as raised:
        read(text)
    assert 0 < len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"justification": "ok", "semantic": 5, "voice": 2',
        '{"justification": "ok", "semantic": 5}',
        '{"justification": "ok", "semantic": 5, "voice": 2, "total": 4}',
        '{"justification": "ok", "semantic": "5", "voice": 2}',
        '{"justification": "ok", "semantic": true, "voice": 2}',
        '{"justification": "ok", "semantic": null, "voice": 2}',
        '{"justification": "ok", "semantic": [5], "voice": 2}',
        '{"justification": "ok", "semantic": NaN, "voice": 2}',
        '{"justification": "ok", "semantic": 1e999, "voice": 2}',
        '{"justification": "ok", "semantic": 90, "voice": 2}',
        '{"justification": "ok", "semantic": ' + "9" * 600 + ', "voice": 2}',
        '{"justification": "ok", "semantic": 4.5, "voice": 2}',
        '{"justification": "ok", "semantic": 1, "semantic": 5, "voice": 2}',
        '{"justification": 5, "semantic": 5, "voice": 2}',
        '[{"justification": "ok", "semantic": 5, "voice": 2}]',
        '{"justification": "ok", "semantic": 5, "voice": 2}{"semantic": 5}',
        '```json\n{"justification": "ok", "semantic": 5, "voice": 2}\n```',
        "5",
        "true",
        "[" * 5000,
    ],
)
def test_no_other_json(text: str) -> None:
    with pytest.raises(ReplyError):
        read(text, JSON)


def test_reasons_are_kept_short_and_plain() -> None:
    why = "ab\u202e <|im_end|>" * 500
    found = verdict(f"<justification>{why}</justification><score>2</score>", TAGS, TAGS.steps["all"])
    assert len(found.why) == 400 and "<" not in found.why and "\u202e" not in found.why


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "no chat completion"),
        ([], "no chat completion"),
        ({"choices": []}, "no chat completion"),
        ({"choices": [1]}, "no chat completion"),
        ({"choices": "<score>5</score>"}, "no chat completion"),
        ({"choices": [{"finish_reason": "stop"}]}, "no message"),
        ({"choices": completion("x")["choices"] * 2}, "no chat completion"),
        (completion("<score>5</score>", finish="length"), "token limit .* 64"),
        (completion(None, finish="length"), "token limit"),
        (completion("<score>5</score>", finish="content_filter"), "content_filter"),
        (completion("<score>5</score>", finish=None), "None"),
        (completion("<score>5</score>", refusal="I will not"), "refused"),
        (completion(None, finish="tool_calls", tool_calls=[{"id": "1"}]), "tool"),
        (completion(None), "null"),
        (completion(5), "int"),
        (completion(True), "boolean"),
        (completion([{"type": "text", "text": "5"}]), "list"),
        (completion(" \n"), "empty"),
        (completion("5" * 200_000), "200,000"),
    ],
)
def test_a_reply_is_one_finished_text(body: Any, reason: str) -> None:
    with pytest.raises(ReplyError, match=reason):
        reply_text(body, 64)
