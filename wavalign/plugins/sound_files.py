"""What the container of a sound file promises, held against what is there, by its own bytes and without decoding.

The rules, by container:

- WAV, RF64, W64, AIFF, CAF and AU say how many bytes of samples follow. Fewer are a file cut short. A size from
  0x7FFF0000 on, or one of 0 in a file whose own size is such a one, is what programs write into a pipe: it promises
  nothing, and all that follows counts.
- FLAC says how many samples there are, and its last frame which ones it holds. A total of 0 promises nothing.
- Ogg (Vorbis, Opus) marks its last page.
- A second FLAC, Ogg or MP3 stream behind the first would not be heard.
- MP3 says how many bytes there are where its first frame is a Xing or Info header, and no frame may be cut.

Sources: RIFF (Microsoft, IBM 1991), EBU Tech 3306, RFC 9639 (FLAC), RFC 3533 (Ogg), ISO 11172-3.
"""

import struct
from dataclasses import dataclass
from typing import final

UNKNOWN_FROM = 0x7FFF0000
"""Sizes that stand for "not known": 0x7FFF0000 (sox), 0x80000000 (arecord), 0xFFFFFFFF (ffmpeg)."""
_SAMPLES = {b"RIFF": b"data", b"RF64": b"data", b"BW64": b"data", b"FORM": b"SSND"}
"""Container -> its chunk of samples."""
_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_OPEN = 1 << 62
"""Sizes of 64 bits from here on promise nothing."""
_TAIL = 1 << 17
"""Bytes at the end of a FLAC file in which its last frame begins: frames of 64 K samples are smaller."""


_FRAMES = 16
"""Most places in it that are tried."""
_CHUNKS = 10_000
"""Most chunks before the samples."""


@final
@dataclass(frozen=True, slots=True)
class Contents:
    """A sound file's bytes as they can be decoded, and what is missing from them."""

    data: bytes
    """With the true size where the header left it open."""
    missing: str = ""
    """What was promised and what was found, for a message; empty where all is there."""
    more: str = ""
    """What is there and would not be decoded, for a message."""


def examine(data: bytes) -> Contents:
    """Look at the container of `data`; what is none of those above is left to the decoder."""
    start = _after_id3(data) if data.startswith(b"ID3") else 0
    if data[:4] in _SAMPLES and data[8:12] in (b"WAVE", b"AIFF", b"AIFC"):
        return _chunks(data)
    if data.startswith(_W64):
        return _w64(data)
    if data.startswith(b"caff"):
        return _caf(data)
    if data.startswith(b".snd") and len(data) >= 24:
        return _au(data)
    if data[start : start + 4] == b"fLaC":
        return _flac(data, start)
    if data.startswith(b"OggS"):
        return Contents(data, _ogg(data), _second_ogg(data))
    if _mpeg_size(data, start):
        return Contents(data, *_mpeg(data, start))
    return Contents(data)


_SECOND = "the sound file holds two streams, and the one from byte {:,} on would not be heard"


def _short(promised: int, found: int, unit: str = "bytes of samples") -> str:
    return f"its header promises {promised:,} {unit}, and {found:,} are there"


# --- chunks of bytes --------------------------------------------------------------------------------------------------


def _chunks(data: bytes) -> Contents:
    """RIFF, RF64 and AIFF."""
    order = ">" if data[:4] == b"FORM" else "<"
    place, long_size = 12, None
    for _ in range(_CHUNKS):
        if place + 8 > len(data):
            break
        name = data[place : place + 4]
        (size,) = struct.unpack_from(f"{order}I", data, place + 4)
        if name == b"ds64" and place + 24 <= len(data):
            (long_size,) = struct.unpack_from("<Q", data, place + 16)
        if name == _SAMPLES[data[:4]]:
            found = len(data) - place - 8
            if size == 0xFFFFFFFF and long_size is not None:
                return Contents(data, _short(long_size, found) if found < long_size else "")
            (whole,) = struct.unpack_from(f"{order}I", data, 4)
            open_end = whole == 0 or whole >= UNKNOWN_FROM
            if size >= UNKNOWN_FROM or (size == 0 and open_end):
                known = struct.pack(f"{order}I", found) if found < UNKNOWN_FROM else data[place + 4 : place + 8]
                return Contents(data[: place + 4] + known + data[place + 8 :])
            return Contents(data, _short(size, found) if found < size else "")
        place += 8 + size + size % 2
    return Contents(data)


def _w64(data: bytes) -> Contents:
    """Sony's: names of 16 bytes, sizes of 8 that count the name and themselves, all at multiples of 8."""
    place = 40
    for _ in range(_CHUNKS):
        if place + 24 > len(data):
            break
        (size,) = struct.unpack_from("<Q", data, place + 16)
        if data[place : place + 4] == b"data":
            size = size - 24 if size < _OPEN else -1
            end = len(data) if size < 0 else place + 24 + size  # the decoder takes what follows for samples
            return _exactly(data[:end], place + 24, size)
        place += max(24, size + -size % 8)
    return Contents(data)


def _caf(data: bytes) -> Contents:
    """Apple's: a size of -1 promises nothing."""
    place = 8
    for _ in range(_CHUNKS):
        if place + 12 > len(data):
            break
        (size,) = struct.unpack_from(">q", data, place + 4)
        if data[place : place + 4] == b"data":
            return _exactly(data, place + 12, size)
        place += 12 + max(0, size)
    return Contents(data)


def _exactly(data: bytes, start: int, size: int) -> Contents:
    """Samples from `start` on, where a negative `size` promises nothing."""
    found = len(data) - start
    return Contents(data, _short(size, found) if found < size else "")


def _au(data: bytes) -> Contents:
    offset, size = struct.unpack_from(">II", data, 4)
    found = max(0, len(data) - offset)
    return Contents(data, _short(size, found) if size < UNKNOWN_FROM and found < size else "")


# --- FLAC -------------------------------------------------------------------------------------------------------------


def _flac(data: bytes, start: int) -> Contents:
    place = start + 8  # of the first metadata block's content, which is STREAMINFO
    if len(data) < place + 34:
        return Contents(data, "it ends in its header")
    smallest, largest = struct.unpack_from(">HH", data, place)
    packed = int.from_bytes(data[place + 10 : place + 18], "big")
    total = packed & ((1 << 36) - 1)
    if (second := data.find(b"fLaC\x00\x00\x00\x22", place)) > 0:
        return Contents(data, more=_SECOND.format(second))
    found = _flac_end(data, fixed=smallest if smallest == largest else 0, largest=largest)
    if found is None:
        return Contents(data)
    if total == 0:
        known = (packed | min(found, (1 << 36) - 1)).to_bytes(8, "big")
        return Contents(data[: place + 10] + known + data[place + 18 :])
    return Contents(data, _short(total, found, "samples") if found < total else "")


def _flac_end(data: bytes, *, fixed: int, largest: int) -> int | None:
    """The sample behind the last frame that is whole to its checksum; None where no frame is found.

    What looks like a frame's header may stand in a frame by chance: only one whose checksum reaches to the end of the
    file is the last. Where there is none the file is cut, in the frame with the highest number.
    """
    end = _before_tags(data)
    at, floor = end, max(0, end - _TAIL)
    begun: list[int] = []
    while len(begun) < _FRAMES and (at := data.rfind(b"\xff", floor, at)) >= 0:
        if data[at + 1 : at + 2] not in (b"\xf8", b"\xf9"):
            continue
        span = _flac_frame(data, at, fixed=fixed, largest=largest)
        if span is None:
            continue
        if _crc(data[at:end], _CRC16, 16) == 0:
            return span[0] + span[1]
        begun.append(span[0])
    return max(begun, default=None)


def _before_tags(data: bytes) -> int:
    """Where the frames end: before the tags that some programs append."""
    end = len(data) - 128 if data[-128:-125] == b"TAG" else len(data)
    if data[end - 32 : end - 24] == b"APETAGEX":
        size = int.from_bytes(data[end - 20 : end - 16], "little")
        headed = data[end - 9] & 0x80  # a header of its own stands before the tag
        end -= min(end, size + (32 if headed else 0))
    return end


def _flac_frame(data: bytes, at: int, *, fixed: int, largest: int) -> tuple[int, int] | None:
    """First sample and number of samples of the frame whose header stands at `at`; None where none does."""
    head = data[at : at + 16]
    if len(head) < 6:
        return None
    length = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()
    number = head[4] if length == 1 else head[4] & (0x7F >> length)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    place, code = 4 + length, head[2] >> 4
    if code == 0:
        return None
    extra = {6: 1, 7: 2}.get(code, 0)
    count = int.from_bytes(head[place : place + extra], "big") + 1
    if not extra:
        count = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    place += extra + {12: 1, 13: 2, 14: 2}.get(head[2] & 0x0F, 0)
    if place >= len(head) or _crc(head[:place], _CRC8, 8) != head[place]:
        return None
    return (number if head[1] & 1 else number * (fixed or largest)), count


def _table(width: int, polynomial: int) -> tuple[int, ...]:
    found = []
    for byte in range(256):
        crc = byte << (width - 8)
        for _ in range(8):
            crc = crc << 1 ^ polynomial if crc >> (width - 1) & 1 else crc << 1
        found.append(crc & ((1 << width) - 1))
    return tuple(found)


_CRC8, _CRC16 = _table(8, 0x07), _table(16, 0x8005)


def _crc(data: bytes, table: tuple[int, ...], width: int) -> int:
    """The checksums of FLAC: most significant bit first, from 0; a whole frame with its own at the end gives 0."""
    crc = 0
    for byte in data:
        crc = (crc << 8 ^ table[crc >> (width - 8) ^ byte]) & ((1 << width) - 1)
    return crc


# --- Ogg --------------------------------------------------------------------------------------------------------------


def _ogg(data: bytes) -> str:
    """What is missing behind the last page that begins in `data`."""
    at = data.rfind(b"OggS")
    if len(data) < at + 27 or len(data) < at + 27 + data[at + 26]:
        return "its last page is cut"
    size = 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
    if len(data) < at + size:
        return f"its last page promises {size:,} bytes, and {len(data) - at:,} are there"
    return "" if data[at + 5] & 4 else "it ends before the page that is marked as its last"


def _second_ogg(data: bytes) -> str:
    """Say where a page that begins a stream stands behind one that ends a stream; empty where none does."""
    place, ended = 0, False
    while data[place : place + 4] == b"OggS" and len(data) >= place + 27:
        if ended and data[place + 5] & 2:
            return _SECOND.format(place)
        ended = ended or bool(data[place + 5] & 4)
        place += 27 + data[place + 26] + sum(data[place + 27 : place + 27 + data[place + 26]])
    return ""


# --- MP3 --------------------------------------------------------------------------------------------------------------

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KILOBITS = {
    (3, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""(version, layer) as the header spells them -> bit rates."""


def _after_id3(data: bytes) -> int:
    """Where an ID3v2 tag at the beginning ends."""
    if len(data) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))


def _mpeg_size(data: bytes, at: int) -> int:
    """Bytes of the frame whose header stands at `at`; 0 where none does."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 0 or bits in (0, 15) or rate == 3:
        return 0
    table = _KILOBITS[3, layer] if version == 3 else _KILOBITS[2, 3 if layer == 3 else 2]
    bit_rate, hertz = 1000 * table[bits - 1], _RATES[version][rate]
    if layer == 3:
        return (12 * bit_rate // hertz + padding) * 4
    return (72 if layer == 1 and version != 3 else 144) * bit_rate // hertz + padding


def _mpeg(data: bytes, start: int) -> tuple[str, str]:
    """What is missing, and what would not be decoded: a decoder ends where the first file said that it ends."""
    size = _mpeg_size(data, start)
    first = data[start : start + size]
    at = max(first.find(b"Xing"), first.find(b"Info"))
    if at > 0 and len(first) >= at + 16:
        (flags,) = struct.unpack_from(">I", first, at + 4)
        (promised,) = struct.unpack_from(">I", first, at + (12 if flags & 1 else 8))
        if flags & 2 and promised > len(data) - start:
            return _short(promised, len(data) - start, "bytes"), ""
    place = start
    while size := _mpeg_size(data, place):
        if place + size > len(data):
            return f"its last frame has {size:,} bytes, and {len(data) - place:,} are there", ""
        if at > 0 and place > start and data[place + at : place + at + 4] in (b"Xing", b"Info"):
            return "", _SECOND.format(place)
        place += size
    return "", ""
