"""One speaking process: `python -m wavalign.plugins.speech.world.render_process JOB FOLDER`. No torch here.

JOB is a JSON list of clips (`name`, `text`, `delivery`, `snr`); each becomes a 16-bit, 16 kHz WAV file in FOLDER.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from wavalign.plugins.speech import espeak
from wavalign.plugins.speech.espeak import Delivery

SAMPLE_RATE = 16_000


def speak(clip: dict[str, Any], folder: Path) -> None:
    """Speak one clip, with white noise `snr` dB below it where there is one (seeded by its name)."""
    samples, rate = espeak.speak(clip["text"], Delivery(**clip["delivery"]))
    sound = soxr.resample(samples, rate, SAMPLE_RATE)
    if clip["snr"] is not None:
        noise = np.random.default_rng(list(clip["name"].encode())).standard_normal(len(sound))
        sound = sound + noise * np.sqrt(np.mean(sound**2)) * 10.0 ** (-clip["snr"] / 20.0)
    soundfile.write(folder / clip["name"], np.clip(sound, -1.0, 1.0), SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        speak(each, Path(sys.argv[2]))
