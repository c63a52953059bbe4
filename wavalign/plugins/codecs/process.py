"""A codec that lives elsewhere: a worker script under an interpreter of your choice encodes and decodes.

For codecs whose code wants another environment, such as SpeechTokenizer or BiCodec from their official checkouts. The
script declares its code books and rates; what it must import stands in `speech/worker_side/wavalign_worker.py`.
Source: own construction.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from wavalign.errors import PluginError, PreflightError
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.codes import digest, flat_ids, refuse_other_rate, whole_frames
from wavalign.plugins.speech.worker_process import ScriptOptions, WorkerProcess


@final
class ProcessParams(ScriptOptions):
    """Which script is run, and how."""


@final
class ProcessCodec(Codec):
    """Code books and rates as the worker declares them."""

    Params = ProcessParams

    def __init__(self, params: ProcessParams) -> None:
        self._worker = WorkerProcess(params.script, params)
        contract = self._worker.contract
        if not contract.encodes:
            self._worker.close()
            raise PluginError(f"{self._worker.name} does not encode", hint="declare encode_rate and give an encode")
        self._contract, self._script = contract, params.script
        self.sample_rate = contract.encode_rate
        self.frame_rate = contract.frame_rate
        self.codes_per_frame = len(contract.codebook_sizes)
        self.num_codes = sum(contract.codebook_sizes)

    def encode(self, waveform: Waveform) -> list[int]:
        """Flat ids of what the worker gives; no sound is no code."""
        refuse_other_rate(waveform, self.sample_rate)
        if len(waveform.samples) == 0:
            return []
        codes, count = self._worker.encode(waveform), self.codes_per_frame
        frames = [codes[start : start + count] for start in range(0, len(codes), count)]
        return flat_ids(frames, self._contract.codebook_sizes)

    def decode(self, codes: Sequence[int]) -> Waveform:
        """Sound of every whole frame, at the worker's rate."""
        if not self.can_decode:
            raise PreflightError(f"{self._worker.name} does not decode", hint="declare decode_rate and give a decode")
        frames = whole_frames(codes, self._contract.codebook_sizes)
        if not frames:
            return Waveform(np.zeros(0, np.float32), self._contract.decode_rate)
        return self._worker.decode([code for frame in frames for code in frame])

    @property
    def can_decode(self) -> bool:
        """Whether the worker declares a decode_rate."""
        return self._contract.decodes

    def fingerprint(self) -> str:
        """Digest of the script, of the contract and so of the worker's own fingerprint."""
        return f"process-{digest({}, Path(self._script).read_text(encoding='utf-8'), repr(self._contract))}"
