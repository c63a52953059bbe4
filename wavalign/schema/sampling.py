"""The distributions of single token streams, and those of evaluation."""

from collections.abc import Mapping
from typing import final

from pydantic import Field, model_validator

from wavalign.schema.base import Section
from wavalign.schema.bounds import MOST_TOKENS, Temperature, TopK


@final
class StreamSampling(Section):
    """What differs in one token stream; a field left out is as beside `streams`."""

    temperature: Temperature | None = None
    """Divides the logits; 0 takes the likeliest id, which only evaluation may."""
    top_k: TopK | None = None
    """Keep the k most likely ids; 0 keeps all."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Keep the smallest set of ids with this much probability."""
    repetition_penalty: float = Field(default=1.0, ge=1, le=100)
    """Before all else, divides positive logits of ids said lately and multiplies negative ones; evaluation only."""
    repetition_window: int = Field(default=64, ge=1, le=MOST_TOKENS)
    """Newest ids of the stream's answer that count as said lately; nothing is penalised before there are more."""


@final
class EvaluationSampling(Section):
    """The distribution held-out answers are drawn from: greedy unless told otherwise, the same draws every time."""

    temperature: Temperature = 0.0
    """Divides the logits; 0 takes the likeliest id."""
    top_k: TopK = 0
    """Keep the k most likely ids; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the smallest set of ids with this much probability."""
    streams: Mapping[str, StreamSampling] = Field(default_factory=dict)
    """What differs in single token streams, by their names: `mix` of vita; `text` and `audio` of kimi."""
    group_size: int = Field(default=1, ge=1, le=4096, exclude_if=lambda size: size == 1)
    """Answers to each dialogue. Metrics judge the first one, but for those that compare the answers of a group."""

    @model_validator(mode="after")
    def _draws(self) -> "EvaluationSampling":
        drawn = [self.temperature if each.temperature is None else each.temperature for each in self.streams.values()]
        if self.group_size > 1 and not max((self.temperature, *drawn)):
            raise ValueError("at temperature 0 all answers of a group are the same: raise it, or leave group_size at 1")
        return self
