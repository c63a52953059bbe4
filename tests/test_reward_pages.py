"""docs/rewards: a page for every built-in reward that says what fools it, and an index whose links lead somewhere."""

import re
from pathlib import Path

import pytest

from wavalign.plugins.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/rewards"
ELSEWHERE = {"judge": ROOT / "docs/judge.md"}
REWARDS = [name for kind, name in CATALOG if kind == "reward"]


@pytest.mark.parametrize("name", REWARDS)
def test_a_page_says_what_fools_a_reward_and_which_command_shows_it(name: str) -> None:
    text = ELSEWHERE.get(name, PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert re.search(r"fool", text), name
    assert re.search(r"(python benchmarks/\w+\.py|pytest tests/\w|wavalign \w+ )", text), name


def test_the_index_links_every_reward_and_nothing_that_is_not_there() -> None:
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"^\| \[(\w+)\]\(", index, flags=re.MULTILINE))
    assert linked == set(REWARDS)
    for page in PAGES.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
