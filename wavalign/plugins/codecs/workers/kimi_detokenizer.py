"""A worker that decodes GLM-4-Voice ids with Kimi-Audio's official detokenizer: flow matching, BigVGAN at 24,000 Hz.

Needs a checkout of Kimi-Audio, an environment with its requirements (give its interpreter as `python`), a GPU, and the
model's folder with `audio_detokenizer` (config.yaml, model.pt) and `vocoder` (config.json, model.pt). The .pt files are
pickles, which can run code when they are read: take them from where you trust them. The first start compiles kernels
and takes minutes. WavAlign starts it:

    decoder:
      worker: kimi
      python: /envs/kimi-audio/bin/python
      arguments: [--checkout, /src/Kimi-Audio, --model, /models/Kimi-Audio-7B-Instruct]
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from wavalign_worker import Contract, Decode, serve

SAMPLE_RATE = 24_000
NUM_CODES = 16_384
FILES = ("audio_detokenizer/config.yaml", "audio_detokenizer/model.pt", "vocoder/config.json", "vocoder/model.pt")
CHUNK = 30
"""Codes decoded at a time, as in the official code."""
MEL_FRAMES_PER_CODE = 4


def arguments() -> argparse.Namespace:
    """The command line, its folders checked."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--checkout", type=Path, required=True, help="folder of the official Kimi-Audio repository")
    parser.add_argument("--model", type=Path, required=True, help=f"folder with {', '.join(FILES)}")
    parser.add_argument("--device", type=int, default=int(os.environ.get("LOCAL_RANK", "0")), help="number of the GPU")
    parser.add_argument("--steps", type=int, default=30, help="solver steps; default 30, as in the official code")
    parser.add_argument("--seed", type=int, default=0, help="of the noise each decoding starts from; default 0")
    given = parser.parse_args()
    if not (given.checkout / "kimia_infer").is_dir():
        parser.error(f"--checkout {given.checkout} holds no kimia_infer: it is not a checkout of Kimi-Audio")
    absent = [name for name in FILES if not (given.model / name).is_file()]
    if absent:
        parser.error(f"--model {given.model} lacks {', '.join(absent)}")
    return given


def load() -> tuple[Contract, None, Decode]:
    """The official detokenizer, and a function from codes to samples."""
    given = arguments()
    sys.path.insert(0, str(given.checkout.resolve()))
    try:
        torch, official = importlib.import_module("torch"), importlib.import_module("kimia_infer.models.detokenizer")
    except ImportError as error:
        sys.exit(
            f"the official detokenizer cannot be imported ({error}): run this worker with the interpreter of an "
            "environment that holds the requirements of Kimi-Audio"
        )
    if not torch.cuda.is_available():
        sys.exit("the official detokenizer runs on a GPU alone, and this machine shows none")
    torch.cuda.set_device(given.device)
    detokenizer = official.get_audio_detokenizer(str(given.model))

    def decode(codes: list[int]) -> list[float]:
        torch.manual_seed(given.seed)  # the same codes are the same sound
        detokenizer.clear_states()
        parts = []
        for start in range(0, len(codes), CHUNK):
            part = detokenizer.detokenize_streaming(
                torch.tensor([codes[start : start + CHUNK]], device=given.device),
                ode_step=given.steps,
                is_final=start + CHUNK >= len(codes),
                upsample_factor=MEL_FRAMES_PER_CODE,
            )
            parts.append(part.float().cpu().flatten())
        samples: list[float] = torch.cat(parts).clamp(-1.0, 1.0).tolist()
        return samples

    return Contract(codebook_sizes=(NUM_CODES,), decode_rate=SAMPLE_RATE), None, decode


if __name__ == "__main__":
    serve(load)
