"""Contracts of samplers, rewards and metrics, and the copies that a plugin's code is given."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, final, overload

import torch
from torch import Generator, Tensor

from wavalign.engine.contracts.model import answer, token_sequence
from wavalign.engine.contracts.origins import guarded_block, origin
from wavalign.engine.contracts.token_rewards import LARGEST_REWARD, token_values
from wavalign.engine.contracts.values import (
    exact,
    json_value,
    named,
    names,
    number,
    one_line,
    shown,
    tensor,
    text,
    want,
    whole,
)
from wavalign.plugins.api import (
    Architecture,
    Measurement,
    Metric,
    Policy,
    Reward,
    Sampler,
    SamplingOptions,
)
from wavalign.plugins.batch import (
    Dialogue,
    Rollout,
    RolloutGroup,
    Scored,
    TokenSequence,
    TokenSpace,
    Waveform,
)
from wavalign.plugins.guard import Broken

_OF_THE_LINE = ("stage", "step", "split", "time", "evaluation_seconds")
_BESIDE = ("low", "high", "count", "ceiling", "ceiling_low", "ceiling_high")
"""Keys of an evaluation's line that are no value's name."""
TOLERANCE = 1e-4
"""How far above 0 rounding may lift a log-prob."""
_FEWEST = 2
"""Items from which a mean has an interval."""


# --- samplers ---------------------------------------------------------------------------------------------------------


def _sample(
    plugin: Sampler,
    own: Callable[..., Any],
    policy: Policy,
    architecture: Architecture,
    prompts: Sequence[tuple[Dialogue, TokenSequence]],
    options: SamplingOptions,
    generator: Generator,
) -> list[RolloutGroup]:
    before = () if origin(plugin).own else _state_of(policy)
    with guarded_block(architecture, "sampling"):  # the policy and its decoding state are its objects
        groups = own(policy, architecture, prompts, options, generator)
    if before and before != _state_of(policy):
        hint = "sample under torch.no_grad(), and leave weights, requires_grad and train() or eval() as they were"
        raise Broken("changed the policy, which it is lent to sample from", hint=hint)
    if not isinstance(groups, list | tuple) or not all(isinstance(each, RolloutGroup) for each in groups):
        raise Broken(f"gave {shown(groups)} instead of a list of RolloutGroup")
    if len(groups) != len(prompts):
        raise Broken(f"gave {len(groups)} groups for {len(prompts)} prompts")
    space = architecture.tokens
    for (dialogue, prompt), group in zip(prompts, groups, strict=True):
        what = f"the group of dialogue '{dialogue.id}'"
        if group.dialogue is not dialogue and group.dialogue.id != dialogue.id:
            raise Broken(f"gave dialogue '{group.dialogue.id}' where '{dialogue.id}' was asked: keep the order")
        if group.prompt is not prompt and not torch.equal(group.prompt.ids, prompt.ids):
            raise Broken(f"gave another prompt in {what}")
        if len(group.rollouts) != options.group_size:
            raise Broken(f"gave {len(group.rollouts)} answers in {what}; group_size is {options.group_size}")
        for index, rollout in enumerate(group.rollouts):
            _rollout(rollout, space, f"answer {index} of {what}")
    return list(groups)


def _state_of(policy: Policy) -> tuple[object, ...]:
    """What of a policy a sampler leaves as it found it; writing to a weight counts its version up."""
    return (policy.training, *((each.requires_grad, each._version) for each in policy.parameters()))


def _rollout(found: object, space: TokenSpace, what: str) -> None:
    if not isinstance(found, Rollout):
        raise Broken(f"gave {named(found)} as {what}, which is to be a Rollout")
    token_sequence(found.completion, space, what)
    answer(found.answer, what)
    shape = found.completion.ids.shape
    logprobs = tensor(found.logprobs, f"log-probs of {what}", shape=shape)
    if logprobs.numel() and not bool(((logprobs <= TOLERANCE) & (logprobs > -torch.inf)).all()):
        low, high = float(logprobs.min()), float(logprobs.max())
        raise Broken(f"gave log-probs from {low:g} to {high:g} in {what}; they are finite and not above 0")
    if found.support is not None:
        want(found.support, Tensor, f"the support of {what}")
        if found.support.dim() != 3 or found.support.shape[:2] != shape:
            raise Broken(
                f"gave a support of shape {list(found.support.shape)} in {what}, which is to be {[*shape, 'K']}"
            )


# --- metrics ----------------------------------------------------------------------------------------------------------


def _measure(plugin: Metric, own: Callable[..., Any], groups: Sequence[RolloutGroup]) -> list[Measurement]:
    found = own(groups if origin(plugin).own else Lent(groups))
    if not isinstance(found, list | tuple):
        raise Broken(f"gave {named(found)} instead of a list of Measurement")
    measured = [_measurement(each, len(groups)) for each in found]
    twice = {each.name for each in measured if [other.name for other in measured].count(each.name) > 1}
    if twice:
        raise Broken(f"gave two values of the name {shown(min(twice))}")
    return measured


def _conclude(
    plugin: Metric, own: Callable[..., Any], groups: Sequence[RolloutGroup], observed: Sequence[Any]
) -> list[Measurement]:
    return _measure(plugin, lambda lent: own(lent, observed), groups)


def _observe(plugin: Metric, own: Callable[..., Any], groups: Sequence[RolloutGroup]) -> list[Any] | None:
    """As JSON gives it back, on one process too: from the others of several it comes so."""
    found = own(groups if origin(plugin).own else Lent(groups))
    if found is None:
        return None
    observed = list(_column(found, "what it observed", len(groups)))
    json_value(observed, "what it observed")
    return list(json.loads(json.dumps(observed)))


def _measurement(found: object, groups: int) -> Measurement:
    if not isinstance(found, Measurement):
        raise Broken(f"gave {named(found)} instead of a Measurement")
    _check_name(found.name)
    count = whole(found.count, f"the count of {found.name}")
    value = number(found.value, found.name, nan=count == 0)
    low, high = (
        number(each, f"{found.name}'s {what} bound", nan=count < _FEWEST)
        for each, what in ((found.low, "lower"), (found.high, "upper"))
    )
    if low > high:
        raise Broken(f"gave {found.name} the interval from {low:g} to {high:g}; the lower bound comes first")
    want(found.unit, str, f"the unit of {found.name}")
    if found.better not in ("more", "less"):
        raise Broken(f"says that {shown(found.better)} of {found.name} is better; it is more or less")
    want(found.quality, bool, f"`quality` of {found.name}")
    want(found.says, str, f"what {found.name} says")
    want(found.details, Mapping, f"the details of {found.name}")
    want(found.points, Mapping, f"the points of {found.name}")
    items = _column(found.items, f"the items of {found.name}", groups, may_be_empty=True)
    return replace(
        found,
        value=value,
        low=low,
        high=high,
        count=count,
        unit=text(found.unit),
        says=text(found.says),
        items=tuple(None if each is None else number(each, f"an item of {found.name}") for each in items),
        details={
            text(key): tuple(
                None if each is None else _detail(each) for each in _column(column, f"detail {key}", groups)
            )
            for key, column in found.details.items()
        },
        points={
            text(key): tuple(None if each is None else _point(each) for each in _column(column, f"cloud {key}", groups))
            for key, column in found.points.items()
        },
    )


def _point(found: object) -> tuple[float, float]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Broken(f"gave {shown(found)} as a point, which is two numbers")
    x, y = (number(each, "a point's place") for each in found)
    return x, y


def _check_name(name: object) -> None:
    """A measured value's name becomes a key of metrics.jsonl, beside those of the line and of its own interval."""
    said = one_line(name, "the name of a value")
    if said in _OF_THE_LINE or said.rpartition("/")[2] in _BESIDE:
        raise Broken(
            f"gave a value the name {shown(name)}, which means something else in metrics.jsonl",
            hint=f"taken are {', '.join(_OF_THE_LINE)}, and as an ending {', '.join(f'/{each}' for each in _BESIDE)}",
        )


def _column(found: object, what: str, length: int, *, may_be_empty: bool = False) -> Sequence[object]:
    """One value for every group."""
    if not isinstance(found, tuple | list):
        raise Broken(f"gave {named(found)} as {what}, which is to be a tuple")
    if may_be_empty and not found:
        return ()
    if len(found) != length:
        raise Broken(f"gave {len(found)} values as {what} for {length} groups; None stands for one that was left out")
    return found


# --- rewards ----------------------------------------------------------------------------------------------------------


def scored(found: object, low: float, high: float, *, completion: TokenSequence | None = None) -> Scored:
    """A reward's result as plain numbers and text; what is no value in its range becomes None with the reason.

    Values of single tokens are those of `completion`; without one they are left out.
    """
    if not isinstance(found, Scored):
        return Scored(None, f"gave {type(found).__name__} instead of Scored")
    said = details(found.details)
    if found.value is None:
        return Scored(None, text(found.reason), said, blame="answer" if found.blame == "answer" else "reward")
    try:
        value = number(float(found.value) if isinstance(found.value, bool) else found.value, "value")
    except Broken as broken:
        return Scored(None, _in_words(broken), said)
    if abs(value) > LARGEST_REWARD:
        return Scored(None, f"gave {exact(value)}; rewards go up to {LARGEST_REWARD:g}", said)
    if not low <= value <= high:
        return Scored(None, f"gave {exact(value)}, outside its range {exact(low)} to {exact(high)}", said)
    try:
        variance = None if found.variance is None else _variance(found.variance)
        tokens = None
        if found.tokens is not None and completion is not None:
            tokens = token_values(found.tokens, completion, low, high)
    except Broken as broken:
        return Scored(None, broken.text, said)
    return Scored(value, text(found.reason), said, tokens=tokens, variance=variance)


def _variance(found: object) -> float:
    return number(found, "the variance of its value", low=0, high=LARGEST_REWARD**2)


def details(found: object) -> dict[str, float | str]:
    """What is worth showing beside a value, as JSON can hold it: what is neither finite number nor text is put so."""
    if not isinstance(found, Mapping):
        return {"details": text(found)}
    return {text(key): _detail(value) for key, value in found.items()}


def _detail(value: object) -> float | str:
    if isinstance(value, str) or value is None:
        return text(value)
    try:
        return number(value, "detail")
    except Broken:
        return text(value)


def _in_words(broken: Broken) -> str:
    """Why there is no value, without saying of what."""
    return broken.text.replace(" as value, which is to be a number", " instead of a number").replace(" as value", "")


def range_problem(low: object, high: object) -> str:
    """What is wrong with a declared range; empty where nothing is."""
    try:
        lowest, highest = (number(each, "an end of `range`", nan=True, infinite=True) for each in (low, high))
    except Broken as broken:
        return broken.text
    if not lowest < highest:
        return f"declares the range {lowest:g} to {highest:g}, in which no two rewards can differ"
    return ""


def _reward_made(reward: Reward) -> None:
    _needs_of_sound(reward.needs, "pieces", "target_codes")
    declared = reward.range
    if not isinstance(declared, tuple | list) or len(declared) != 2:
        raise Broken(f"left {shown(declared)} as `range`, which is the lowest and the highest value")
    whole(reward.batch_size, "`batch_size`", low=1)
    whole(reward.concurrency, "`concurrency`", low=0)
    names(reward.counts, "`counts`")
    if problem := range_problem(*declared):
        raise Broken(problem, hint="declare the lowest and the highest value that `score` can give")


def _tally(plugin: Reward, own: Callable[[], Any]) -> dict[str, float]:
    found = own()
    want(found, Mapping, "the tally")
    if {*found} != {*plugin.counts}:
        raise Broken(f"counted {shown(sorted(found))}; `counts` names {shown(sorted(plugin.counts))}")
    return {name: number(value, f"the count of {name}") for name, value in found.items()}


def _metric_made(metric: Metric) -> None:
    _needs_of_sound(metric.needs, "states", "start")


def _needs_of_sound(found: object, *more: str) -> None:
    known = ("text", "waveform", *more)
    unknown = names(found, "`needs`") - {*known}
    if unknown:
        raise Broken(f"needs {shown(min(unknown))}; there are {', '.join(known[:-1])} and {known[-1]}")


# --- copies -----------------------------------------------------------------------------------------------------


def lent_rollout(rollout: Rollout) -> Rollout:
    """A copy: what somebody's code does to it changes nothing that is learned or written."""
    completion = rollout.completion
    sound = rollout.waveform
    return replace(
        rollout,
        completion=lent_tokens(completion),
        logprobs=rollout.logprobs.clone(),
        support=None if rollout.support is None else rollout.support.clone(),
        waveform=None if sound is None else Waveform(sound.samples.copy(), sound.sample_rate),
        state=None if rollout.state is None else rollout.state.clone(),
        divergence=None if rollout.divergence is None else rollout.divergence.clone(),
    )


def lent_tokens(tokens: TokenSequence) -> TokenSequence:
    """A copy of a row."""
    return replace(
        tokens,
        ids=tokens.ids.clone(),
        roles=tokens.roles.clone(),
        sources=None if tokens.sources is None else tokens.sources.clone(),
        sounds=tuple(replace(each, values=each.values.clone()) for each in tokens.sounds),
    )


def lent_dialogue(dialogue: Dialogue) -> Dialogue:
    """A copy: its metadata may be changed at will."""
    return replace(dialogue, metadata=copy.deepcopy(dict(dialogue.metadata)))


@final
class Lent(Sequence[RolloutGroup]):
    """Groups, each copied when it is looked at."""

    def __init__(self, groups: Sequence[RolloutGroup]) -> None:
        self._groups = groups

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> RolloutGroup: ...

    @overload
    def __getitem__(self, index: slice) -> list[RolloutGroup]: ...

    def __getitem__(self, index: int | slice) -> RolloutGroup | list[RolloutGroup]:
        found = self._groups[index]
        return _lent_group(found) if isinstance(found, RolloutGroup) else [_lent_group(each) for each in found]

    def __iter__(self) -> Iterator[RolloutGroup]:
        return map(_lent_group, self._groups)


def _lent_group(group: RolloutGroup) -> RolloutGroup:
    return RolloutGroup(
        lent_dialogue(group.dialogue),
        lent_tokens(group.prompt),
        tuple(map(lent_rollout, group.rollouts)),
        None if group.target_state is None else group.target_state.clone(),
    )


AROUND: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("sampler", "sample"): _sample,
    ("reward", "tally"): _tally,
    ("metric", "measure"): _measure,
    ("metric", "observe"): _observe,
    ("metric", "conclude"): _conclude,
}
MADE: Mapping[str, Callable[[Any], None]] = {"reward": _reward_made, "metric": _metric_made}
