"""What foreign text may do to a terminal, which is nothing, and the streams that hide secrets on their way out."""

import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast, final

from wavalign.redaction import REDACTOR

_JOINERS = ("\u200c", "\u200d")
"""Format characters that spelling needs."""


def visible(text: str, *, keep: str = "\n\t") -> str:
    r"""`text` with everything that could steer a terminal or reorder a line written out: ESC as `\x1b`.

    C0 and C1 controls, direction marks, other format characters, line separators and lone surrogates; what stands in
    `keep` stays.
    """
    return "".join(letter if letter in keep or _is_harmless(letter) else _spelled(letter) for letter in text)


def presentable(text: str, *, keep: str = "\n\t") -> str:
    """`text` without secrets and control sequences: what a person may be shown."""
    return visible(REDACTOR.text(text), keep=keep)


def _is_harmless(letter: str) -> bool:
    if letter.isascii():
        return letter.isprintable()
    return letter in _JOINERS or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _spelled(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@final
class RedactedStream:
    """A text stream that hides secrets in what is written to it, whoever writes: prints, warnings, tracebacks."""

    def __init__(self, stream: TextIO) -> None:
        self.bare = stream
        """For whole documents (JSON) in which every text was made presentable before."""

    def write(self, text: str) -> int:
        """Write `text` without secrets; gives the length of `text`."""
        self.bare.write(REDACTOR.text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's own; bytes written to its buffer or descriptor are not looked at."""
        return getattr(self.bare, name)


def bare(stream: TextIO) -> TextIO:
    """The stream below, of one that hides secrets; any other as it is."""
    return stream.bare if isinstance(stream, RedactedStream) else stream


@contextmanager
def redacted_streams() -> Iterator[None]:
    """Inside, what this process prints and what Python itself reports hides secrets."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, RedactedStream(out)), cast(TextIO, RedactedStream(err))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
