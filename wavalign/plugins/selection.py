"""A recipe's `tokens` as weights by token kind, for the `roles` mask."""

from collections.abc import Mapping

KINDS = ("text", "audio", "marks")
_NAMED: dict[str, dict[str, float]] = {
    "text": {"text": 1.0},
    "audio": {"audio": 1.0},
    "all": dict.fromkeys(KINDS, 1.0),
}


def kind_weights(tokens: str | Mapping[str, float]) -> dict[str, float]:
    """Weights of text, audio and marks, absent kinds 0: the options of the `roles` mask.

    `tokens` is `text` (text and its end marker), `audio`, `all`, or weights by kind. Raises ValueError for another name
    or kind, for a negative weight, and when no token is selected: an empty mask would silently be another objective.
    """
    if isinstance(tokens, str):
        if tokens not in _NAMED:
            raise ValueError(f"unknown tokens {tokens!r}: write text, audio, all or weights such as {{text: 1}}")
        tokens = _NAMED[tokens]
    if unknown := sorted(set(tokens) - set(KINDS)):
        raise ValueError(f"unknown token kind {unknown[0]!r}: the kinds are text, audio and marks")
    weights = {kind: float(tokens.get(kind, 0.0)) for kind in KINDS}
    if not all(0 <= weight < float("inf") for weight in weights.values()):
        raise ValueError("the weight of a token kind must be a number from 0 up")
    if not any(weights.values()):
        raise ValueError("selects no token: give at least one of text, audio or marks a weight above 0")
    return weights
