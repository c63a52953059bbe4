"""The reward against a server on this machine that lies, stalls, breaks off and asks for money."""

from typing import Any

from tests.plugins.judging import server as fake
from tests.plugins.judging.made import KEY, SUM, judge, rollout
from tests.plugins.judging.server import Asked, scores, serving
from wavalign.plugins.batch import Scored


def scored(
    answer: fake.Answer, text: str = "it is twelve", **more: Any
) -> tuple[Scored, dict[str, float], list[Asked]]:
    """One answer judged, what was counted, and what the server was asked."""
    with serving(answer) as server:
        made = judge(server.url, **more)
        try:
            return made.score(rollout(text), SUM), made.tally(), server.asked
        finally:
            made.close()


def test_a_number() -> None:
    found, counts, asked = scored(scores(4))
    assert (found.value, found.reason, found.variance) == (4.0, "", None)
    assert found.details == {"one/0": 4.0, "why": "it is so"}
    assert counts == {"requests": 1, "cached": 0, "judged": 1, "failed": 0, "unreadable": 0}
    (request,) = asked
    assert request.line.startswith("POST /v1/chat/completions ")
    assert request.key == KEY and request.headers["accept-encoding"] == "identity"
    assert {*request.body} == {"model", "messages", "max_tokens"}
    assert "what is five plus seven?" in request.user and "it is twelve" in request.user
    assert isinstance(request.body["messages"][1]["content"], str), "a text model is sent no parts"
