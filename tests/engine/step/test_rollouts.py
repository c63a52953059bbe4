"""From sampled answers to their sound."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np

from tests.plugins.spoken import dialogue, group, rollout
from tests.toy.compiled import compiled
from tests.toy.live import live_stage
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform


@final
class Beeps(Codec):
    """A sample for every code, at another rate than it would encode; or, mute, no decoder at all."""

    sample_rate, frame_rate, codes_per_frame, num_codes = 16_000, 12.5, 1, 9

    def __init__(self, *, mute: bool) -> None:
        self.mute = mute

    @property
    def can_decode(self) -> bool:
        return not self.mute

    def encode(self, waveform: Waveform) -> list[int]:
        return []

    def decode(self, codes: Sequence[int]) -> Waveform:
        assert not self.mute, "who cannot decode is not asked"
        return Waveform(np.array(codes, np.float32), 22_050)

    def fingerprint(self) -> str:
        return "beeps"


def test_answers_with_codes_get_their_sound_at_the_decoders_rate(tmp_path: Path) -> None:
    roller = replace(live_stage(compiled(tmp_path)).roller, codec=Beeps(mute=False))
    spoken, silent = (group(dialogue(), rollout("a", codes=count)) for count in (3, 0))
    with_codes, without = roller.with_sound([spoken, silent])
    sound = with_codes.rollouts[0].waveform
    assert sound is not None and sound.sample_rate == 22_050 and sound.samples.tolist() == [0.0, 1.0, 2.0]
    assert without.rollouts[0].waveform is None


def test_without_a_decoder_answers_stay_without_sound(tmp_path: Path) -> None:
    roller = replace(live_stage(compiled(tmp_path)).roller, codec=Beeps(mute=True))
    (found,) = roller.with_sound([group(dialogue(), rollout("a", codes=3))])
    assert found.rollouts[0].waveform is None
