"""One speaking process of the natural world: `python -m wavalign.plugins.speech.world.natural_process JOB FOLDER`.

JOB is a JSON list of clips (`name`, `text`, `delivery`); each becomes a 16-bit, 24 kHz WAV file in FOLDER.
"""

import json
import sys
from pathlib import Path

import soundfile

from wavalign.plugins.speech.world.natural_styles import NaturalDelivery
from wavalign.plugins.speech.world.natural_voices import speak_naturally

if __name__ == "__main__":
    for clip in json.loads(Path(sys.argv[1]).read_text()):
        spoken = speak_naturally(clip["text"], NaturalDelivery(**clip["delivery"]))
        soundfile.write(Path(sys.argv[2]) / clip["name"], spoken.samples, spoken.sample_rate, subtype="PCM_16")
