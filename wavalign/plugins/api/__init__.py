"""The plugin kinds and their contracts.

A plugin is one file: a docstring with formula and source, a frozen `Params` model, one `@final` class. The engine
constructs it as `Class(params, **runtime)` with the runtime objects its kind names, and reaches it through the
registry only. Shapes use the letters of `plugins.batch`. Plugins import every name from here.
"""

from wavalign.plugins.api.base import Plugin, Remembers
from wavalign.plugins.api.codec import Codec, Nar
from wavalign.plugins.api.data import DataSource, StreamPosition, StreamRecord, StreamSource
from wavalign.plugins.api.decoding import Buffers, DecodingState, StaticDecodingState
from wavalign.plugins.api.metric import Detail, Measurement, Metric
from wavalign.plugins.api.model import Architecture, Dimensions, EncodeAudio, ModelSource, Policy
from wavalign.plugins.api.objective import (
    Advantage,
    AdvantageInputs,
    AdvantageOutput,
    Gate,
    GateReading,
    Loss,
    LossInputs,
    LossOutput,
    Mask,
    Regularizer,
)
from wavalign.plugins.api.reward import SHOWN, Facet, Process, Reward, RewardModel, RewardModels, text_is_enough
from wavalign.plugins.api.rollout import Distribution, Provider, Sample, Sampler, SamplingOptions
from wavalign.plugins.api.steps import StepInputs, StepOutput
from wavalign.plugins.api.tracker import Tracker

__all__ = [
    "SHOWN",
    "Advantage",
    "AdvantageInputs",
    "AdvantageOutput",
    "Architecture",
    "Buffers",
    "Codec",
    "DataSource",
    "DecodingState",
    "Detail",
    "Dimensions",
    "Distribution",
    "EncodeAudio",
    "Facet",
    "Gate",
    "GateReading",
    "Loss",
    "LossInputs",
    "LossOutput",
    "Mask",
    "Measurement",
    "Metric",
    "ModelSource",
    "Nar",
    "Plugin",
    "Policy",
    "Process",
    "Provider",
    "Regularizer",
    "Remembers",
    "Reward",
    "RewardModel",
    "RewardModels",
    "Sample",
    "Sampler",
    "SamplingOptions",
    "StaticDecodingState",
    "StepInputs",
    "StepOutput",
    "StreamPosition",
    "StreamRecord",
    "StreamSource",
    "Tracker",
    "text_is_enough",
]
