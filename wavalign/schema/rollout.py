"""How answers are sampled, and how many rows a step has."""

from collections.abc import Mapping
from typing import Annotated, Literal, final

from pydantic import Field

from wavalign.schema.base import Section
from wavalign.schema.bounds import COOLEST, MOST_FORWARD_TOKENS, MOST_ROWS, MOST_TOKENS, Name, TopK
from wavalign.schema.component import Component
from wavalign.schema.sampling import StreamSampling


@final
class ResampleSection(Section):
    """Dynamic sampling: groups whose answers are all worth the same are replaced by answers to further prompts."""

    limit: int = Field(default=3, ge=1, le=100)
    """Rounds of further prompts a step at most; groups that are still missing then stay as they were first drawn."""


@final
class RolloutSection(Section):
    """The distribution rollouts are drawn from; log-probs are taken under the same one."""

    sampler: Component = Component(type="kv_cache")
    """What samples."""
    provider: Component = Component(type="in_process")
    """Where the weights that sample are: in the process that learns, or elsewhere."""
    importance_cap: float = Field(default=2.0, gt=0, le=1e6)
    """Where a provider samples from other weights than those that learn: tokens count by the ratio of the two
    probabilities, at most this much."""
    group_size: int = Field(default=8, ge=1, le=4096)
    """Answers per prompt (G)."""
    temperature: float = Field(default=0.9, ge=COOLEST, le=100)
    """Divides the logits."""
    top_k: TopK = 0
    """Keep the k most likely ids; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the smallest set of ids with this much probability."""
    streams: Mapping[str, StreamSampling] = Field(default_factory=dict)
    """What differs in single token streams, by their names: `mix` of vita; `text` and `audio` of kimi."""
    max_new_tokens: int = Field(default=256, ge=1, le=MOST_TOKENS)
    """Longest answer, counted in steps of the token streams."""
    truncated: Literal["lowest", "mask", "keep"] = "lowest"
    """What an answer is worth that `max_new_tokens` cut off: the `lowest` reward there is, for it never came to an end;
    nothing is learned from it (`mask`); or what the rewards say of it (`keep`). Where all rewards read text alone, that
    is an answer whose text was cut off."""
    ahead: int = Field(default=0, ge=0, le=1, exclude_if=lambda ahead: not ahead)
    """Steps that sampling runs ahead: with 1 the next step's prompts are answered while this step's rewards score, by
    weights that are one step old when it learns from them. Old log-probs are then computed anew, and tokens are weighed
    as with a provider of other weights (`importance_cap`)."""
    resample: ResampleSection | None = Field(default=None, exclude_if=lambda resample: resample is None)
    """Replace groups without spread in training steps, e.g. `{limit: 3}`; omitted, they stay."""


@final
class BatchSection(Section):
    """What one step sees, over all processes. How it is cut and laid out changes results by rounding alone."""

    prompts: int = Field(default=16, ge=1, le=MOST_ROWS)
    """Prompts a step; each gets `rollout.group_size` answers."""
    demonstrations: int = Field(default=16, ge=1, le=MOST_ROWS)
    """Demonstrations a step."""
    families: Mapping[Name, Annotated[int, Field(ge=1, le=MOST_ROWS)]] = Field(default_factory=dict)
    """Dialogues a step of each of `data.families`; 16 of those that are not named."""
    epochs: int = Field(default=1, ge=1, le=1000)
    """Times that the rows of a step are learned from; above 1, answers come from weights before the last update."""
    mini_batches: int = Field(default=1, ge=1, le=MOST_ROWS)
    """Parts that each epoch is cut into, by prompts and dialogues; every part is one update of the weights."""
    micro_batch: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Rows per forward on one process; omitted, all rows of a process go at once."""
    micro_batch_tokens: int | None = Field(default=None, ge=1, le=MOST_FORWARD_TOKENS, exclude_if=lambda most: not most)
    """Tokens per forward on one process, as the network is given them: padding counts, and a prompt that answers share
    counts once. A row that is longer goes alone and is counted. With `micro_batch` both hold."""
    share_prompts: bool = True
    """What the answers to a prompt begin with goes through the network once for all of them, with the same gradient."""
    packing: bool = True
    """Rows stand behind one another in the forward, and do not see one another, where that costs less than padding."""
    skip_without_signal: bool = True
    """Answers from which nothing can be learned are not run: their advantage is 0, and no other term or metric asks for
    them. They count as ever in what sums are divided by; ratios are logged of those that were run."""
