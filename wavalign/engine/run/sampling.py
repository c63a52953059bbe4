"""What a recipe says about sampling, as the options of a sampler."""

from collections.abc import Mapping

from wavalign.engine.compile.streams import unknown_streams
from wavalign.errors import RecipeError
from wavalign.plugins.api import Distribution
from wavalign.plugins.batch import TokenSpace
from wavalign.schema.rollout import RolloutSection
from wavalign.schema.sampling import EvaluationSampling
from wavalign.schema.stage import Stage


def check_streams(stage: Stage, space: TokenSpace) -> None:
    """Raise RecipeError when `stage` names streams the architecture does not have."""
    if problems := unknown_streams(stage, space.streams):
        raise RecipeError(problems)


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
