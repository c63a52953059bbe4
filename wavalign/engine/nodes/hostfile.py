"""A DeepSpeed hostfile: `HOST slots=N` a line, `#` begins a comment. Read strictly: what is not that is an error."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavalign.errors import UsageError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]*[A-Za-z0-9])?")
_FORM = "a line is `HOST slots=N`, e.g. `worker-1 slots=8`"


@final
@dataclass(frozen=True, slots=True)
class Host:
    """A machine, and how many processes it has room for."""

    name: str
    slots: int


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """The machines of a file, in order; raises UsageError with file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the hostfile {path} cannot be read: {error}", hint=_FORM) from error
    found: dict[str, int] = {}
    hosts = []
    for number, line in enumerate(lines, 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        host = _host(f"{path}:{number}", words)
        if host.name in found:
            message = f"{path}:{number}: {host.name} stands in line {found[host.name]} already"
            raise UsageError(message, hint="one line for each machine, with all its slots")
        found[host.name] = number
        hosts.append(host)
    if not hosts:
        raise UsageError(f"the hostfile {path} names no machine", hint=_FORM)
    return tuple(hosts)


def _host(where: str, words: list[str]) -> Host:
    name, *rest = words
    if not _HOST.fullmatch(name):
        raise UsageError(f"{where}: `{name}` is no name of a machine", hint=_FORM)
    if len(rest) != 1:
        said = " ".join(words)
        raise UsageError(f"{where}: `{said}` {'lacks its slots' if not rest else 'says too much'}", hint=_FORM)
    key, _, value = rest[0].partition("=")
    if key != "slots" or not value:
        raise UsageError(f"{where}: `{rest[0]}` is not slots=N", hint=_FORM)
    if not re.fullmatch(r"[1-9][0-9]{0,3}", value):
        raise UsageError(f"{where}: slots={value}: a whole number from 1 to 9999 is wanted", hint=_FORM)
    return Host(name, int(value))
