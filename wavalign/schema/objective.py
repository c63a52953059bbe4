"""What is optimised: terms over tokens, mixed by constants and a gate."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

from pydantic import BeforeValidator, Field

from wavalign.schema.base import RecipePath, Section
from wavalign.schema.bounds import Name, Weight
from wavalign.schema.component import Component

Member = Annotated[int, Field(ge=0, le=1_000_000)]
TokenKind = Literal["text", "audio", "marks"]


def _tokens(value: Any) -> Any:
    """`text`, `{text: 1}` and `{type: my_mask}` are all ways to say which tokens."""
    if isinstance(value, str) and value not in ("text", "audio", "all"):
        return {"type": value}
    return value


Tokens = Annotated[Literal["text", "audio", "all"] | Component | Mapping[TokenKind, Weight], BeforeValidator(_tokens)]
"""Token kinds, weights by kind, or a mask plugin."""


@final
class TermSection(Section):
    """One term: a loss, the tokens it sees, and how much it counts."""

    loss: Component
    """What is computed per token or sequence."""
    tokens: Tokens = "all"
    """`text`, `audio`, `all`, weights by kind such as `{text: 1, audio: 0.25}`, or a mask plugin."""
    family: Name | None = None
    """Rows it learns from: `rollouts`, `demonstrations`, or a name under `data.families`; omitted, those its loss is
    made for."""
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=64)] | None = None
    """Of dialogues with several targets, the ones it learns from, by number: `[0]` is the chosen side of a pair alone,
    `[1]` the rejected one; omitted, those its loss is made for."""
    heads: Literal["own", "mtp"] = "own"
    """`own`: each token by the head that predicts it in sampling; `mtp`: each token by every multi-token-prediction
    head, averaged, which keeps those modules in step with the trunk (losses on demonstrations only)."""
    share: str | float = 1.0
    """A number, `gate`, or `1 - gate`."""
    weight: Weight = 1.0
    """Constant factor."""
    aggregation: Literal["token", "sequence", "fixed", "sum"] = "token"
    """Mean over all tokens; mean of sequence means; over sequences x `rollout.max_new_tokens`; sum per sequence."""


@final
class CriticSection(Section):
    """What the scalar outputs `values` and `row_values`, and those of losses, are read from."""

    type: Literal["shared", "separate"] = "shared"
    """`shared`: the policy's own hidden states; `separate`: those of a second network, trained by the same optimiser,
    kept in checkpoints and never exported."""
    start: RecipePath | None = None
    """Checkpoint folder that a separate one starts from, of the policy's architecture and sizes (a reward model's
    `model`, say); null takes the weights that the policy starts from."""
    detach: bool = False
    """Let no gradient of the values pass into the network that they are read from: the heads alone learn."""


@final
class ObjectiveSection(Section):
    """loss = sum over terms of share * weight * aggregate(mask * values)."""

    advantage: Component = Component(type="group_normalized")
    """Rewards of a group to advantages."""
    critic: CriticSection = Field(default=CriticSection(), exclude_if=lambda critic: critic == CriticSection())
    """What scalar outputs are read from."""
    gate: Component | None = None
    """The moving share `gate` that terms may refer to."""
    terms: Mapping[Name, TermSection] = Field(min_length=1)
    """Terms by name."""
