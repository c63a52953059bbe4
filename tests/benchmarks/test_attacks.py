"""Every built-in reward against every attack: the outcomes of docs/rewards/attacks.md, no more and no less."""

import ast
import importlib.util
from pathlib import Path

import pytest

from benchmarks.attacking.answers import ATTACKS
from benchmarks.attacking.measuring import measure
from benchmarks.attacking.page import PAGE, outcomes, stated, table, written
from benchmarks.attacking.rows import ELSEWHERE, ROWS, Elsewhere
from wavalign.plugins.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[2]
STATED = stated(PAGE.read_text(encoding="utf-8"))
HARMLESS = ("written otherwise", "bare word")
VARIANTS = HARMLESS[:1]
COSTS = ("fails", "below")
READS_WORDS = ("answer_match", "asr_consistency")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if row.slow else name for name, row in ROWS.items()]
)
def test_a_reward_says_of_attacks_what_its_row_says(name: str) -> None:
    if ROWS[name].module and importlib.util.find_spec(ROWS[name].module) is None:
        pytest.skip(f"{ROWS[name].module} is not installed")
    reward = ROWS[name].reward()
    try:
        assert outcomes({name: measure(reward, ROWS[name].below)})[name] == STATED.get(name), (
            "python benchmarks/attacks.py --write"
        )
    finally:
        reward.close()


def test_every_built_in_reward_has_a_row() -> None:
    known = {row.type for row in ROWS.values()} | {each.type for each in ELSEWHERE}
    assert known == {name for kind, name in CATALOG if kind == "reward"}
    assert list(STATED) == list(ROWS)


@pytest.mark.parametrize("each", ELSEWHERE, ids=lambda each: each.type)
def test_what_is_tested_elsewhere_is(each: Elsewhere) -> None:
    path, _, name = each.test.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_states_every_attack() -> None:
    for name, found in STATED.items():
        assert sorted(found) == sorted(each.name for each in ATTACKS), name


def test_what_pays_costs_with_another_reward() -> None:
    paid = {attack for found in STATED.values() for attack, outcome in found.items() if outcome == "ABOVE"}
    assert paid, "the page is read"
    assert {attack for attack in paid if not any(found[attack] in COSTS for found in STATED.values())} == set()


@pytest.mark.parametrize("attack", [each.name for each in ATTACKS if each.name not in HARMLESS])
def test_every_attack_costs_something_by_one_of_them(attack: str) -> None:
    assert any(found[attack] in COSTS for found in STATED.values())


def test_guards_let_the_right_answer_through_and_pay_nobody() -> None:
    guards = {name: found for name, found in STATED.items() if ROWS[name].below is not None}
    assert {outcome for found in guards.values() for outcome in found.values()} <= {"fails", "below", "same"}
    heard = ("asr_consistency",)  # which does not hear a word by itself
    assert {found[each] for name, found in guards.items() for each in HARMLESS[:1] if ROWS[name].type not in heard} == {
        "same"
    }


def test_number_and_case_do_not_matter_to_who_compares_words() -> None:
    for name in (each for each in STATED if ROWS[each].type in READS_WORDS):
        assert {STATED[name][attack] for attack in VARIANTS} == {"same"}, name


@pytest.mark.parametrize(
    "attack", ["wrong answer", "pieces", "list", "hedged", "negated", "injection", "copied question"]
)
def test_a_wrong_answer_is_wrong(attack: str) -> None:
    """Whatever the options, of who compares with the right answer in full."""
    for name in ("answer_match", "answer_match, alternatives"):
        assert STATED[name][attack] == "fails", name


def test_the_page_is_as_it_is_written() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert written(text, STATED) == text, "python benchmarks/attacks.py --write"
    assert stated(text.replace(table(STATED), table(dict(list(STATED.items())[:1])))) == dict(list(STATED.items())[:1])
    name, found = next(iter(STATED.items()))
    twice = text.replace(f"| `{name}` | ", f"| `{name}` | {next(a for a in found if found[a] != 'fails')}, ", 1)
    with pytest.raises(ValueError, match="stands under"):
        stated(twice)
