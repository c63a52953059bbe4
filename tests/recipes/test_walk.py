"""The commands that docs/scaling.md walks through, run again: what they print is what the page shows."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.runs import here
from tests.plugins.codecs.makers import write_vq
from tests.recipes import public

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scaling.md"
BLOCKS = re.findall(r"```console\n\$ ([^\n]*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
HOSTS = re.findall(r"```text\n(worker-1 [^`]*)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
PART = "├└│"
"""Begin the rows of parts of the memory, which docs/memory.md explains and other tests hold."""
NEAR = 2.0
"""GiB by which a device's memory may differ from what the page says."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A checkpoint of the published names and shapes, a codec, and two dialogues."""
    folder = tmp_path_factory.mktemp("walk")
    checkpoint = public.write_vita(folder / "vita", modules=0, hears=True)
    found = {
        "model.checkpoint": checkpoint,
        "model.codec.checkpoint": write_vq(folder / "codec", quantize_vocab_size=48),
    }
    data = public.write_dialogue(folder)
    found |= {f"data.{heading}.path": data for heading in ("prompts", "demonstrations", "evaluation")}
    return [word for name, value in found.items() for word in ("--set", f"{name}={value}")]


def shown(text: str, settings: Sequence[str]) -> list[str]:
    """Lines of an output as the page has them: Python's path shortened, without `settings` and parts of the memory."""
    text = text.replace(f"{shlex.join(settings)} ", "").replace(sys.executable, "python")
    text = text.replace(f"--chdir={Path.cwd()}", "--chdir=/shared/project")
    return [line for line in text.splitlines() if line[:1] not in PART]


def assert_shown(page: Sequence[str], lines: Sequence[str]) -> None:
    """Every line of the page comes, in its order; `...` stands for any lines, others follow one another."""
    place, gap = 0, False
    for wanted in page:
        if wanted == "...":
            gap = True
            continue
        places = range(place, len(lines)) if gap else range(place, place + 1)
        found = next((at for at in places if at < len(lines) and _same(wanted, lines[at])), None)
        assert found is not None, f"`{wanted}` is not printed; from there on: {lines[place : place + 3]}"
        place, gap = found + 1, False
    assert gap or place == len(lines), f"more is printed: {lines[place:]}"


def _same(wanted: str, line: str) -> bool:
    pattern = r"(stage \w+: memory per device +)([\d.]+)( GiB of .*)"
    ours, theirs = (re.fullmatch(pattern, each) for each in (wanted, line))
    if ours is None or theirs is None:
        return wanted == line
    near = abs(float(ours.group(2)) - float(theirs.group(2))) <= NEAR
    return near and ours.group(1, 3) == theirs.group(1, 3)


def test_the_page_has_commands_and_hosts() -> None:
    assert len(BLOCKS) == 6 and len(HOSTS) == 1
    assert all(command.startswith("wavalign ") for command, _ in BLOCKS)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_command_prints_what_the_page_says(
    number: int, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command, output = BLOCKS[number]
    (tmp_path / "hosts").write_text(HOSTS[0])
    words = [str(tmp_path / "hosts") if word == "hosts" else word for word in shlex.split(command)[1:]]
    ended = here(*words, *settings)
    assert ended.code == 0, ended.output
    page = [line for line in output.splitlines() if line[:1] not in PART]
    assert_shown(page, shown(ended.output, settings))


def test_what_differs_is_found() -> None:
    """The comparison fails for a number that changed, a line that is missing, and one too many."""
    lines = ["a 1", "b 2", "stage train: memory per device  43.7 GiB of 80.0 GiB (estimate)", "c 3"]
    assert_shown(["a 1", "...", "stage train: memory per device  43.0 GiB of 80.0 GiB (estimate)", "c 3"], lines)
    for wrong in (["a 1", "b 3", "..."], ["a 1", "..."[:2]], ["a 1", "b 2"], ["b 2", "..."], ["...", "d 4"]):
        with pytest.raises(AssertionError):
            assert_shown(wrong, lines)
    with pytest.raises(AssertionError):
        assert_shown(["...", "stage train: memory per device  40.0 GiB of 80.0 GiB (estimate)", "c 3"], lines)
