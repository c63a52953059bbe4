"""The GLM-4-Voice speech tokenizer (VITA-Audio, Kimi-Audio, GLM-4-Voice): 16 kHz in, 12.5 ids a second.

Runs here from its public checkpoint (`glm-4-voice-tokenizer`): 30-second chunks, a block-causal Whisper encoder of 16
layers, the mean of 4 frames, the nearest of 16,384 codes. The way back to sound is a model of its own, GLM-4-Voice's at
22,050 Hz or Kimi-Audio's at 24,000 Hz, which runs from its official checkout in a process of its own (`decoder`).
Source: GLM-4-Voice (arXiv 2412.02612).
"""

import threading
from collections.abc import Sequence
from typing import Literal, final

import numpy as np

from wavalign.errors import PluginError, PreflightError
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform
from wavalign.plugins.codecs.whisper_vq.tokenizer import SAMPLE_RATE, WhisperVqTokenizer
from wavalign.plugins.codecs.workers import WORKERS
from wavalign.plugins.speech.codes import flat_ids, refuse_other_rate, whole_frames
from wavalign.plugins.speech.worker_process import WorkerOptions, WorkerProcess, check_startable
from wavalign.schema.base import Params, RecipePath


@final
class DecoderOptions(WorkerOptions):
    """The process that turns ids into sound."""

    worker: Literal["glm4voice", "kimi"] = "glm4voice"
    """Which of the workers that come along is run: `glm4voice` takes --checkout and --decoder, `kimi` takes --checkout
    and --model. Not used where `script` names one of your own."""
    script: RecipePath | None = None
    """Python file of a worker of your own."""


@final
class Glm4VoiceParams(Params):
    """Options of the GLM-4-Voice tokenizer."""

    checkpoint: RecipePath
    """Folder of `glm-4-voice-tokenizer`: config.json and its safetensors."""
    device: str = "cpu"
    """Where the tokenizer runs, e.g. `cuda`."""
    decoder: DecoderOptions | None = None
    """What turns ids into sound; without it nothing can listen to the answers."""


@final
class Glm4VoiceCodec(Codec):
    """One code book of 12.5 ids a second; decodes through a worker."""

    Params = Glm4VoiceParams

    def __init__(self, params: Glm4VoiceParams) -> None:
        self._params = params
        if params.decoder is not None:
            check_startable(_script(params.decoder), params.decoder)  # now, not when the first answer is to be heard
        self._tokenizer = WhisperVqTokenizer(params.checkpoint, params.device)
        self._worker: WorkerProcess | None = None
        self._starting = threading.Lock()
        self.sample_rate = SAMPLE_RATE
        self.frame_rate = SAMPLE_RATE / self._tokenizer.samples_per_code
        self.codes_per_frame = 1
        self.num_codes = self._tokenizer.sizes.num_codes

    def encode(self, waveform: Waveform) -> list[int]:
        """An id for every 80 ms begun, counted anew every 30 seconds."""
        refuse_other_rate(waveform, self.sample_rate)
        return self._tokenizer.encode(waveform.samples)

    def decode(self, codes: Sequence[int]) -> Waveform:
        """Sound of the ids that are codes, at the decoder's rate."""
        worker = self._decoder()
        kept = flat_ids(whole_frames(codes, (self.num_codes,)), (self.num_codes,))
        if not kept:
            return Waveform(np.zeros(0, np.float32), worker.contract.decode_rate)
        return worker.decode(kept)

    @property
    def can_decode(self) -> bool:
        """Whether a decoder was given."""
        return self._params.decoder is not None

    def fingerprint(self) -> str:
        """Digest of the tokenizer's weights and sizes."""
        return f"glm4voice-{self._tokenizer.fingerprint()}"

    def _decoder(self) -> WorkerProcess:
        """The worker, started when the first answer is to be heard: it takes a GPU's memory and minutes."""
        options = self._params.decoder
        if options is None:
            raise PreflightError(
                "codec glm4voice has no decoder, so nothing can listen to its ids",
                hint="set model.codec.decoder; `wavalign plugins show glm4voice` lists its options",
            )
        with self._starting:
            if self._worker is None:
                worker = WorkerProcess(_script(options), options)
                contract = worker.contract
                if not contract.decodes or contract.codebook_sizes != (self.num_codes,):
                    worker.close()
                    raise PluginError(
                        f"{worker.name} decodes code books of {list(contract.codebook_sizes)}, "
                        f"the tokenizer has one of {self.num_codes}",
                        hint="take the decoder that belongs to the tokenizer",
                    )
                self._worker = worker
            return self._worker


def _script(options: DecoderOptions) -> str:
    return options.script or str(WORKERS[options.worker])
