"""A worker that decodes GLM-4-Voice ids with the official checkout: flow matching to mel frames, HiFT to 22,050 Hz.

Needs a checkout of GLM-4-Voice with its submodules, an environment with its requirements (give its interpreter as
`python`), a GPU, and the folder `glm-4-voice-decoder` (config.yaml, flow.pt, hift.pt). The two .pt files are pickles,
which can run code when they are read: take them from where you trust them. WavAlign starts it:

    decoder:
      worker: glm4voice
      python: /envs/glm-4-voice/bin/python
      arguments: [--checkout, /src/GLM-4-Voice, --decoder, /models/glm-4-voice-decoder]
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import uuid
from pathlib import Path

from wavalign_worker import Contract, Decode, serve

SAMPLE_RATE = 22_050
NUM_CODES = 16_384
FILES = ("config.yaml", "flow.pt", "hift.pt")
FOLDERS = (".", "cosyvoice", "third_party/Matcha-TTS")
"""Of the checkout, on the search path as in its own demo."""


def arguments() -> argparse.Namespace:
    """The command line, its folders checked."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--checkout", type=Path, required=True, help="folder of the official GLM-4-Voice repository")
    parser.add_argument("--decoder", type=Path, required=True, help=f"folder with {', '.join(FILES)}")
    parser.add_argument(
        "--device", default=f"cuda:{os.environ.get('LOCAL_RANK', '0')}", help="default: this rank's GPU"
    )
    parser.add_argument(
        "--steps", type=int, help="solver steps; only a decoder with the argument option_steps takes it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise each decoding starts from; default 0")
    given = parser.parse_args()
    if not (given.checkout / "flow_inference.py").is_file():
        parser.error(f"--checkout {given.checkout} holds no flow_inference.py: it is not a checkout of GLM-4-Voice")
    absent = [name for name in FILES if not (given.decoder / name).is_file()]
    if absent:
        parser.error(f"--decoder {given.decoder} lacks {', '.join(absent)}")
    return given


def load() -> tuple[Contract, None, Decode]:
    """The official decoder, and a function from codes to samples."""
    given = arguments()
    sys.path[:0] = [str((given.checkout / folder).resolve()) for folder in FOLDERS]
    try:
        torch, inference = importlib.import_module("torch"), importlib.import_module("flow_inference")
    except ImportError as error:
        sys.exit(
            f"the official decoder cannot be imported ({error}): run this worker with the interpreter of an "
            "environment that holds the requirements of GLM-4-Voice, and fetch the checkout with its submodules"
        )
    config, flow, vocoder = (str(given.decoder / name) for name in FILES)
    decoder = inference.AudioDecoder(
        config_path=config, flow_ckpt_path=flow, hift_ckpt_path=vocoder, device=given.device
    )
    steps = {} if given.steps is None else {"option_steps": given.steps}

    def decode(codes: list[int]) -> list[float]:
        torch.manual_seed(given.seed)  # the same codes are the same sound
        with torch.inference_mode():
            speech, _ = decoder.token2wav(torch.tensor([codes]), uuid=uuid.uuid4().hex, finalize=True, **steps)
        samples: list[float] = speech.float().cpu().flatten().clamp(-1.0, 1.0).tolist()
        return samples

    return Contract(codebook_sizes=(NUM_CODES,), decode_rate=SAMPLE_RATE), None, decode


if __name__ == "__main__":
    serve(load)
