"""Contracts of architectures, codecs and NARs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavalign.engine.contracts.values import ids, named, number, shown, tensor, want, whole
from wavalign.plugins.api import Architecture, Codec, Dimensions, Nar, Policy
from wavalign.plugins.batch import Answer, Role, TokenSequence, TokenSpace, Waveform
from wavalign.plugins.guard import Broken


def token_sequence(found: object, space: TokenSpace, what: str) -> TokenSequence:
    """A row of the right shape, its ids in the vocabulary, its roles known."""
    if not isinstance(found, TokenSequence):
        raise Broken(f"gave {named(found)} as {what}, which is to be a TokenSequence")
    length = found.ids.shape[1] if isinstance(found.ids, Tensor) and found.ids.dim() == 2 else 0
    shape = (len(space.streams), length)
    tensor(found.ids, f"ids of {what}", shape=shape, dtype=torch.int64)
    tensor(found.roles, f"roles of {what}", shape=shape, dtype=torch.int8)
    if found.sources is not None:
        tensor(found.sources, f"sources of {what}", shape=shape, dtype=torch.int8)
        _within(found.sources, len(space.heads), f"sources of {what}")
    _within(found.ids, space.vocabulary_size, f"ids of {what}")
    _within(found.roles, len(Role), f"roles of {what}")
    return found


def answer(found: object, what: str) -> Answer:
    """Text, codes and whether it was finished."""
    if not isinstance(found, Answer):
        raise Broken(f"gave {named(found)} as {what}, which is to be an Answer")
    want(found.text, str, f"the text of {what}")
    want(found.finished, bool, f"`finished` of {what}")
    want(found.text_finished, bool, f"`text_finished` of {what}")
    if not isinstance(found.codes, tuple):
        raise Broken(f"gave {named(found.codes)} as the codes of {what}, which is to be a tuple")
    return found


def waveform(found: object, what: str) -> Waveform:
    """Finite mono sound with a rate."""
    if not isinstance(found, Waveform):
        raise Broken(f"gave {named(found)} as {what}, which is to be a Waveform")
    samples = found.samples
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype.kind != "f":
        got = f"{samples.dtype} {list(samples.shape)}" if isinstance(samples, np.ndarray) else named(samples)
        raise Broken(f"gave {got} as the samples of {what}, which are to be float32 [N]")
    if not np.isfinite(samples).all():
        raise Broken(f"gave samples that are no numbers in {what}")
    whole(found.sample_rate, f"the sample rate of {what}", low=1)
    return found


def _within(values: Tensor, size: int, what: str) -> None:
    """Raise unless all `values` [...] are from 0 to below `size`."""
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= size):
        raise Broken(f"gave {what} from {int(values.min())} to {int(values.max())}; they go from 0 to {size - 1}")


def _tokens(_plugin: Architecture, own: Callable[[], Any]) -> TokenSpace:
    found = own()
    if not isinstance(found, TokenSpace):
        raise Broken(f"gave {named(found)} instead of a TokenSpace")
    return found


def _policy(_plugin: Architecture, own: Callable[..., Any], **options: Any) -> Policy:
    found = own(**options)
    if not isinstance(found, Policy):
        raise Broken(f"gave {named(found)} instead of a Policy")
    return found


def _row(plugin: Architecture, own: Callable[..., Any], *given: Any) -> TokenSequence:
    return token_sequence(own(*given), plugin.tokens, f"the tokens of dialogue '{given[0].id}'")


def _decode_completion(_plugin: Architecture, own: Callable[[TokenSequence], Any], completion: TokenSequence) -> Answer:
    return answer(own(completion), "an answer")


def _parameter_group(_plugin: Architecture, own: Callable[[str], Any], name: str) -> str:
    found = own(name)
    want(found, str, f"the group of {name}")
    return str(found)


def _dimensions(_plugin: Architecture, own: Callable[[], Any]) -> Dimensions:
    found = own()
    want(found, Dimensions, "its sizes")
    return found  # type: ignore[no-any-return]  # looked at above


def _codec_made(codec: Codec) -> None:
    for name, value in (
        ("sample_rate", codec.sample_rate),
        ("codes_per_frame", codec.codes_per_frame),
        ("num_codes", codec.num_codes),
    ):
        whole(value, f"`{name}`", low=1)
    number(codec.frame_rate, "`frame_rate`", low=1e-9)


def _encode(plugin: Codec, own: Callable[[Waveform], Any], sound: Waveform) -> list[int]:
    found = ids(own(sound), "codes", below=plugin.num_codes)
    if len(found) % plugin.codes_per_frame:
        raise Broken(f"gave {len(found)} ids, which are no whole frames of {plugin.codes_per_frame}")
    return found


def _decode(_plugin: Codec, own: Callable[[Sequence[int]], Any], codes: Sequence[int]) -> Waveform:
    found = waveform(own(codes), "sound")
    return found if found.samples.dtype == np.float32 else replace(found, samples=found.samples.astype(np.float32))


def _can_decode(_plugin: Codec, own: Callable[[], Any]) -> bool:
    found = own()
    want(found, bool, "can_decode")
    return bool(found)


def _fingerprint(_plugin: Codec, own: Callable[[], Any]) -> str:
    found = own()
    if not isinstance(found, str) or not found:
        raise Broken(f"gave {shown(found)}, which is to be a text that names what `encode` does")
    return found


def _nar_made(nar: Nar) -> None:
    whole(nar.codes_given, "`codes_given`", low=1)
    whole(nar.codes_per_frame, "`codes_per_frame`", low=1)
    if nar.num_codes is not None:
        whole(nar.num_codes, "`num_codes`", low=1)


def _complete(
    plugin: Nar, own: Callable[..., Any], codes_first: Sequence[int], *, prompt: Sequence[int] = ()
) -> list[int]:
    found = ids(own(codes_first, prompt=prompt), "ids", below=plugin.num_codes)
    frames = len(codes_first) // plugin.codes_given
    if len(found) != frames * plugin.codes_per_frame:
        raise Broken(f"gave {len(found)} ids for {frames} frames of {plugin.codes_per_frame}")
    return found


AROUND: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("architecture", "tokens"): _tokens,
    ("architecture", "empty_policy"): _policy,
    ("architecture", "build_policy"): _policy,
    ("architecture", "encode_prompt"): _row,
    ("architecture", "encode_target"): _row,
    ("architecture", "encode_answer"): _row,
    ("architecture", "decode_completion"): _decode_completion,
    ("architecture", "parameter_group"): _parameter_group,
    ("architecture", "dimensions"): _dimensions,
    ("codec", "encode"): _encode,
    ("codec", "decode"): _decode,
    ("codec", "can_decode"): _can_decode,
    ("codec", "fingerprint"): _fingerprint,
    ("nar", "complete"): _complete,
}
MADE: Mapping[str, Callable[[Any], None]] = {"codec": _codec_made, "nar": _nar_made}
