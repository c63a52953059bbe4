"""How something is started on another machine: a template of a command, and what goes along of the environment."""

import re
import shlex
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.errors import UsageError

SSH = "ssh -o BatchMode=yes -o ServerAliveInterval=15 {host} {line}"
"""How a node of a hostfile is started on; nobody is there to be asked for a password."""
AGENT = ("-m", "wavalign.engine.nodes.agent")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_TAKEN = re.compile(
    r"(WAVALIGN|WANDB|MLFLOW|TRACKIO|HF|PYTHON|OMP|MKL|TORCH|CUDA_DEVICE_ORDER|NCCL|GLOO|UCX|FI|DS|TRITON|AWS|GOOGLE|"
    r"AZURE|HTTPS?_PROXY|NO_PROXY|LD_LIBRARY_PATH|SSL_CERT|TZ|LANG|LC)(_.*)?|DEEPSPEED_.*|PYTHON.*",
    re.IGNORECASE,
)
"""Variables that go along; the others are those of the node's own login."""
_NOT_TAKEN = ("WAVALIGN_LAUNCHER", "WAVALIGN_LOCK")


@final
@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines of a run, and how they are reached."""

    hosts: tuple[str, ...]
    template: str = ""
    """`{host}`, and `{command}` as words or `{line}` as one for a shell; empty for ssh, this machine excepted."""
    address: str = ""
    """Where the ranks meet, on the first host; empty for that host's name."""
    port: int = 0
    """0 for one that is free there."""
    secrets: frozenset[str] = frozenset()
    """Variables that the recipe names."""

    def command(self, host: str) -> list[str]:
        """What starts the launcher's part of `host`; it is told the rest on its standard input."""
        agent = [sys.executable, *AGENT]
        if not self.template and is_here(host):
            return agent
        return filled(self.template or SSH, host, agent)

    def meeting_point(self) -> str:
        """Name or number at which all nodes reach the first one."""
        if self.address:
            return self.address
        first, *others = self.hosts
        if not others or all(each in _LOCAL for each in self.hosts):
            return "127.0.0.1"
        if first in _LOCAL:
            hint = "write its name, by which the others reach it; or name an address of it with --master"
            raise UsageError(f"the first machine is {first}, and there are others", hint=hint)
        return first

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Of this machine's environment, what goes along."""
        return {
            name: value
            for name, value in environment.items()
            if (_TAKEN.fullmatch(name) or name in self.secrets) and name not in _NOT_TAKEN
        }


def is_here(host: str) -> bool:
    """Whether a name is that of this machine."""
    mine = socket.gethostname()
    return host in (*_LOCAL, mine, mine.partition(".")[0])


def filled(template: str, host: str, command: Sequence[str]) -> list[str]:
    """A template's words with `{host}`, `{command}` and `{line}` in their places."""
    check_template(template)
    words: list[str] = []
    for word in shlex.split(template):
        if word == "{command}":
            words += command
        else:
            words.append(word.replace("{host}", host).replace("{line}", shlex.join(command)))
    return words


def check_template(template: str) -> None:
    """Raise UsageError where a template cannot start anything anywhere."""
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise UsageError(f"--remote `{template}`: {error}", hint=f"e.g. --remote '{SSH}'") from error
    named: Collection[str] = re.findall(r"\{(\w*)\}", template)
    wrong = [name for name in named if name not in ("host", "command", "line")]
    runs = ("{command}" in words) + sum("{line}" in word for word in words)
    if wrong or "host" not in named or runs != 1:
        what = f"knows no {{{wrong[0]}}}" if wrong else "lacks {host}, or one of {command} (its words) and {line}"
        raise UsageError(f"--remote `{template}` {what}", hint=f"e.g. --remote '{SSH}'")
