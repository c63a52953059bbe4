"""A NAR that lives elsewhere: a worker script under an interpreter of your choice completes frames.

For models whose code wants another environment, such as SoundStorm over SpeechTokenizer from a checkout. The script
declares how many codes a frame it takes and its code books; what it must import stands in
`speech/worker_side/wavalign_worker.py`. Source: own construction.
"""

from collections.abc import Sequence
from typing import final

from wavalign.errors import DataError, PluginError
from wavalign.plugins.api import Nar
from wavalign.plugins.speech.codes import flat_ids, whole_frames
from wavalign.plugins.speech.worker_process import ScriptOptions, WorkerProcess


@final
class ProcessParams(ScriptOptions):
    """Which script is run, and how."""


@final
class ProcessNar(Nar):
    """Ids a frame, taken and given, as the worker declares them."""

    Params = ProcessParams

    def __init__(self, params: ProcessParams) -> None:
        super().__init__(params)
        self._worker = WorkerProcess(params.script, params)
        contract = self._worker.contract
        if not contract.completes:
            self._worker.close()
            raise PluginError(f"{self._worker.name} does not complete", hint="declare codes_given and give a complete")
        self._sizes = contract.codebook_sizes
        self.codes_given = contract.codes_given
        self.codes_per_frame = len(contract.codebook_sizes)
        self.num_codes = sum(contract.codebook_sizes)

    def complete(self, codes_first: Sequence[int], *, prompt: Sequence[int] = ()) -> list[int]:
        """Flat ids of what the worker gives; no frame is no id. DataError where `prompt` is not whole frames."""
        given = whole_frames(codes_first, self._sizes[: self.codes_given])
        if not given:
            return []
        voice = whole_frames(prompt, self._sizes)
        if len(voice) * self.codes_per_frame != len(prompt):
            raise DataError(
                f"{self._worker.name} cannot imitate a voice whose ids are not of its code books {list(self._sizes)}",
                hint="the codec that hears the voice_prompt must be the one that the worker was trained with",
            )
        codes = self._worker.complete(_in_a_row(given), _in_a_row(voice))
        count = self.codes_per_frame
        return flat_ids([codes[start : start + count] for start in range(0, len(codes), count)], self._sizes)


def _in_a_row(frames: Sequence[Sequence[int]]) -> list[int]:
    return [code for frame in frames for code in frame]
