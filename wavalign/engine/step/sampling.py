"""What a recipe says about sampling, as the options of a sampler."""

from collections.abc import Mapping

from wavalign.engine.compile.streams import missing_heads, unknown_streams
from wavalign.errors import RecipeError
from wavalign.plugins.api import Distribution, SamplingOptions
from wavalign.plugins.batch import TokenSpace
from wavalign.schema.rollout import RolloutSection
from wavalign.schema.sampling import EvaluationSampling
from wavalign.schema.stage import Stage


def check_streams(stage: Stage, space: TokenSpace) -> None:
    """Raise RecipeError when `stage` names streams or heads the architecture does not have."""
    if problems := [*unknown_streams(stage, space.streams), *missing_heads(stage, space)]:
        raise RecipeError(problems)


def rollout_options(section: RolloutSection, *, text_only: bool) -> SamplingOptions:
    """How rollouts are sampled; `text_only` lets them end where no text can follow."""
    return SamplingOptions(
        section.group_size,
        section.temperature,
        section.top_k,
        section.top_p,
        section.max_new_tokens,
        "text" if text_only else "all",
        distributions(section),
    )


def evaluation_options(section: EvaluationSampling, *, max_new_tokens: int) -> SamplingOptions:
    """How held-out answers are sampled: whole, for they are listened to."""
    return SamplingOptions(
        section.group_size,
        section.temperature,
        section.top_k,
        section.top_p,
        max_new_tokens,
        "all",
        distributions(section),
    )


def distributions(section: RolloutSection | EvaluationSampling) -> Mapping[str, Distribution]:
    """The distributions of the streams that `section` sets apart."""
    return {
        name: Distribution(
            section.temperature if each.temperature is None else each.temperature,
            section.top_k if each.top_k is None else each.top_k,
            section.top_p if each.top_p is None else each.top_p,
            each.repetition_penalty,
            each.repetition_window,
        )
        for name, each in section.streams.items()
    }
