"""Templates of commands, where ranks meet, and what goes along of the environment."""

import shlex
import socket
import sys

import pytest

from wavalign.engine.nodes.remote import Nodes, check_template, filled
from wavalign.errors import UsageError

AGENT = [sys.executable, "-m", "wavalign.engine.nodes.agent"]


def test_a_template_is_filled() -> None:
    command = ["/a b/python", "-m", "x"]
    assert filled("ip netns exec {host} {command}", "n1", command) == ["ip", "netns", "exec", "n1", *command]
    words = filled("ssh -p 22 me@{host} {line}", "n1", command)
    assert words[:4] == ["ssh", "-p", "22", "me@n1"]
    assert shlex.split(words[4]) == command, "the other machine's shell sees the same words"
    assert filled("docker exec {host} bash -lc 'exec {line}'", "n1", command)[-1] == "exec '/a b/python' -m x"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("ssh {host}", "lacks"),
        ("ssh {line}", "lacks"),
        ("ssh {host} {command} {line}", "lacks"),
        ("ssh {host} x{command}", "lacks"),
        ("ssh {node} {line}", "knows no {node}"),
        ("ssh '{host} {line}", "No closing quotation"),
    ],
)
def test_a_template_that_starts_nothing(template: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_template(template)
    assert message in caught.value.message
    assert "{host}" in caught.value.hint


def test_ssh_but_for_this_machine() -> None:
    nodes = Nodes((socket.gethostname(), "elsewhere"))
    assert nodes.command(socket.gethostname()) == AGENT
    words = nodes.command("elsewhere")
    assert words[0] == "ssh" and words[-2] == "elsewhere" and shlex.split(words[-1]) == AGENT
    assert Nodes(("localhost",), template="x {host} {command}").command("localhost") == ["x", "localhost", *AGENT]


def test_where_ranks_meet() -> None:
    assert Nodes(("a", "b")).meeting_point() == "a"
    assert Nodes(("a", "b"), address="10.0.0.9").meeting_point() == "10.0.0.9"
    assert Nodes(("localhost",)).meeting_point() == "127.0.0.1"
    with pytest.raises(UsageError, match="the first machine is localhost"):
        Nodes(("localhost", "b")).meeting_point()


def test_what_goes_along() -> None:
    """Libraries' settings and the recipe's secrets; not who and where this machine is."""
    mine = {
        "NCCL_DEBUG": "INFO", "PYTHONPATH": "/x", "WAVALIGN_CACHE": "/c", "HF_TOKEN": "t", "JUDGE_KEY": "k",
        "OTHER_KEY": "o", "PATH": "/bin", "HOME": "/me", "CUDA_VISIBLE_DEVICES": "3", "RANK": "0",
        "WAVALIGN_LOCK": "7", "WAVALIGN_LAUNCHER": "8", "https_proxy": "p", "FISH": "f",
    }  # fmt: skip
    taken = Nodes(("a",), secrets=frozenset({"JUDGE_KEY"})).variables(mine)
    assert sorted(taken) == ["HF_TOKEN", "JUDGE_KEY", "NCCL_DEBUG", "PYTHONPATH", "WAVALIGN_CACHE", "https_proxy"]
