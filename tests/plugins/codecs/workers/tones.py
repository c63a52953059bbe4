"""A real worker without packages: a code is the number of a tone, 20 ms of it a frame; its second book is loudness.

`tones.py RATE SAMPLES TONES LEVELS`: encodes 8000 Hz and gives SAMPLES a frame at RATE; with no LEVELS it only decodes.
"""

import math
import sys

from wavalign_worker import Contract, serve

HEARD, FRAME = 8000, 160


def load():  # type: ignore[no-untyped-def]  # it runs under any interpreter
    rate, size, tones, levels = (int(each) for each in sys.argv[1:5])
    print("this line must not reach the pipe")

    def encode(samples):  # type: ignore[no-untyped-def]
        codes = []
        for start in range(0, len(samples), FRAME):
            frame = samples[start : start + FRAME]
            crossings = sum((frame[i] < 0) != (frame[i - 1] < 0) for i in range(1, len(frame)))
            codes += [min(crossings, tones - 1), min(int(levels * max(map(abs, frame))), levels - 1)]
        return codes

    def decode(codes):  # type: ignore[no-untyped-def]
        step = 2 if levels else 1
        return [math.sin(math.pi * (tone + 0.5) * i / size) / 2 for tone in codes[::step] for i in range(size)]

    if not levels:
        return Contract((tones,), decode_rate=rate), None, decode
    books = (tones, levels)
    fingerprint = f"tones-{tones}-{levels}"
    return Contract(books, HEARD, rate, frame_rate=HEARD / FRAME, fingerprint=fingerprint), encode, decode


if __name__ == "__main__":
    serve(load)
