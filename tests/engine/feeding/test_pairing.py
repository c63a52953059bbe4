"""Answers to pairs, by hand: who is chosen, in what order, and why a pair is left out."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from wavalign.engine.feeding.pair_records import record_again, record_of, samples_by_prompt
from wavalign.engine.feeding.pairing import (
    Pair,
    Sample,
    Side,
    length_ratio,
    pairs_of,
    pareto_fronts,
    rank,
)
from wavalign.plugins.batch import AudioClip, Dialogue, Message
from wavalign.schema.pairs import BestAnswers, Facet, GivenPairs, GoldenPairs, PairsSection, ScoredPairs

ASKED = (Message("user", "w1"),)


def said(*codes: int, text: str = "") -> Message:
    return Message("assistant", text, AudioClip.of_codes(codes) if codes else None)


def sample(member: int = 0, answer: Message | None = None, **beside: Any) -> Sample:
    answer = said(*range(4 + member)) if answer is None else answer
    return Sample(Dialogue("d", ASKED, answer), "q", member, **beside)


def made(samples: list[Sample], section: PairsSection, seed: int = 0) -> tuple[list[Pair], dict[str, int]]:
    dropped = Counter[str]()
    return pairs_of(samples, section, lambda reason: dropped.update([reason]), seed=seed), dict(dropped)


def members(pairs: list[Pair]) -> list[tuple[int | None, int | None]]:
    """Length of each side beyond four codes, which is its member."""

    def of(side: Side | None) -> int | None:
        assert side is None or (side.answer.audio is not None and side.answer.audio.codes is not None)
        return None if side is None else len(side.answer.audio.codes) - 4  # type: ignore[union-attr, arg-type]

    return [(of(pair.chosen), of(pair.rejected)) for pair in pairs]


def scored(*values: float, name: str = "s") -> list[Sample]:
    return [sample(member, scores={name: value}) for member, value in enumerate(values)]


def test_gold_against_one_answer() -> None:
    gold = said(9, 9, 9, 9)
    samples = [sample(member, gold=gold, about={"id": f"q#{member}"}) for member in range(3)]
    (pair,), dropped = made(samples, GoldenPairs())
    assert (pair.chosen.answer, pair.rejected and pair.rejected.answer, dropped) == (gold, samples[0].answer, {})
    assert pair.chosen.about == {"source": "golden"} and pair.rejected and pair.rejected.about == {"id": "q#0"}
    found, _ = made(samples, GoldenPairs(answers="all"))
    assert [pair.number for pair in found] == [0, 1, 2]
    drawn = {made(samples, GoldenPairs(answers="random"), seed)[0][0].number for seed in range(3)}
    picked = {
        pair.rejected.answer for seed in range(20) for pair in made(samples, GoldenPairs(answers="random"), seed)[0]
        if pair.rejected is not None
    }  # fmt: skip
    assert drawn == {0} and picked == {each.answer for each in samples}
    assert made([sample()], GoldenPairs()) == ([], {"no_gold": 1})


def test_the_best_against_the_worst() -> None:
    found, dropped = made(scored(0.2, 0.9, 0.1, 0.5), ScoredPairs(type="scored"))
    assert (members(found), dropped) == ([(1, 2)], {})
    assert found[0].gap == pytest.approx(0.8) and (found[0].chosen.score, found[0].rejected.score) == (0.9, 0.1)  # type: ignore[union-attr]
    least = ScoredPairs(type="scored", facets={"s": Facet(mode="min")})
    assert members(made(scored(0.2, 0.9, 0.1, 0.5), least)[0]) == [(2, 1)]
    assert made(scored(0.5), ScoredPairs(type="scored")) == ([], {"few": 1})
    assert made(scored(0.5, 0.5), ScoredPairs(type="scored")) == ([], {"gap": 1}), "equals are no pair"
    assert made(scored(0.5, 0.9), ScoredPairs(type="scored", min_gap=0.5)) == ([], {"gap": 1})
    assert made([*scored(0.1, 0.9), sample(7)], ScoredPairs(type="scored"))[1] == {"unscored": 1}


def test_several_of_the_best() -> None:
    values = (0.1, 0.5, 0.3, 0.9, 0.7)
    assert members(made(scored(*values), ScoredPairs(type="scored", top=2))[0]) == [(3, 0), (4, 2)]
    every = ScoredPairs(type="scored", top=2, match="all")
    assert members(made(scored(*values), every)[0]) == [(3, 0), (3, 2), (4, 0), (4, 2)]
    many = ScoredPairs(type="scored", top=9)
    assert members(made(scored(*values), many)[0]) == [(3, 0), (4, 2)], "no answer is on both sides"


def test_facets_by_weight_and_by_fronts() -> None:
    """Two rates of errors and a likeness: 1 is better than 0 in both, 2 in one alone; nothing is better than 1 or 2."""
    values = [(0.4, 0.5), (0.1, 0.6), (0.3, 0.9), (0.5, 0.4)]
    samples = [sample(m, scores={"wer": wer, "like": like}) for m, (wer, like) in enumerate(values)]
    facets = {"wer": Facet(mode="min", weight=3.0), "like": Facet()}
    weighted = rank(samples, ScoredPairs(type="scored", facets=facets), print, seed=0)
    expected = {m: (-3 * wer + like) / 4 for m, (wer, like) in enumerate(values)}
    assert [each.sample.member for each in weighted] == sorted(expected, key=lambda m: -expected[m])
    assert [each.score for each in weighted] == pytest.approx(sorted(expected.values(), reverse=True))
    fronts = rank(samples, ScoredPairs(type="scored", facets=facets, rank="pareto"), print, seed=0)
    assert [(each.sample.member, each.front) for each in fronts] == [(1, 0), (2, 0), (0, 1), (3, 2)]
    far = ScoredPairs(type="scored", facets=facets, rank="pareto", min_gap=2)
    assert made(samples, far) == ([], {"gap": 1})
    assert made(samples, far.model_copy(update={"min_gap": 1}))[0][0].gap == 2.0


def test_fronts_by_hand() -> None:
    assert pareto_fronts([(1, 1), (1, 1), (2, 0), (0, 0), (0, 3)]) == [0, 0, 0, 1, 0]
    assert pareto_fronts([]) == []


@pytest.mark.parametrize(("ties", "order"), [("first", [0, 1, 2]), ("shorter", [1, 2, 0]), ("longer", [0, 2, 1])])
def test_ties(ties: Any, order: list[int]) -> None:
    answers = [said(*range(9)), said(1), said(*range(5))]
    samples = [sample(m, answer, scores={"s": 1.0}) for m, answer in enumerate(answers)]
    ranked = rank(samples, BestAnswers(type="best", ties=ties), print, seed=0)
    assert [each.sample.member for each in ranked] == order


def test_ties_by_lot_follow_the_seed() -> None:
    section = BestAnswers(type="best", ties="random")
    orders = [[each.sample.member for each in rank(scored(1, 1, 1), section, print, seed=s)] for s in range(20)]
    again = [each.sample.member for each in rank(scored(1, 1, 1)[::-1], section, print, seed=3)]
    assert len({tuple(order) for order in orders}) > 1 and again == orders[3]


def test_the_best_to_imitate() -> None:
    found, _ = made(scored(0.2, 0.9, 0.5), BestAnswers(type="best", top=2))
    assert members(found) == [(1, None), (2, None)]
    found, dropped = made(scored(0.2, 0.9, 0.5), BestAnswers(type="best", top=2, min_score=0.6))
    assert (members(found), dropped) == ([(1, None)], {"low": 1})


@pytest.mark.parametrize(
    ("chosen", "rejected", "beside", "reason"),
    [
        (said(), said(1, 2), {}, "empty"),
        (said(1, 2), said(), {}, "empty"),
        (said(1, 2), said(1, 2), {}, "equal"),
        (said(text="a b"), said(text="a b"), {}, "equal"),
        (said(1, 2), said(3, 4), {"finished": False}, "unfinished"),
        (said(1, 2, 3, 4), said(1), {}, "length"),
        (said(1), said(1, 2, 3, 4), {}, "length"),
        (said(text="a"), said(text="a long way"), {}, "length"),
        (said(1, 2, 3), said(1), {}, ""),
        (said(1), said(1, 2, 3), {}, ""),
    ],
)
def test_what_is_left_out(chosen: Message, rejected: Message, beside: dict[str, Any], reason: str) -> None:
    found, dropped = made([sample(0, rejected, gold=chosen, **beside)], GoldenPairs())
    assert dropped == ({reason: 1} if reason else {}) and len(found) == (not reason)
    if reason in ("length", "unfinished"):
        takes = GoldenPairs(length_ratio=None, finished=("chosen",))
        assert len(made([sample(0, rejected, gold=chosen, **beside)], takes)[0]) == 1


def test_an_end_is_asked_of_the_sides_that_are_named() -> None:
    cut = [sample(0, finished=False, scores={"s": 1.0}), sample(1, scores={"s": 0.0})]
    assert made(cut, ScoredPairs(type="scored"))[1] == {"unfinished": 1}
    assert made(cut, ScoredPairs(type="scored", finished=("chosen",)))[1] == {"unfinished": 1}
    assert made(cut, ScoredPairs(type="scored", finished=("rejected",)))[1] == {}


def test_lengths_have_a_unit_in_common() -> None:
    wave = Message("assistant", "a", AudioClip("/nowhere.wav"))
    assert length_ratio(said(1, 2), said(1)) == 0.5
    assert length_ratio(wave, said(1)) is None
    assert length_ratio(wave, said(1, text="abc")) == 3.0, "characters, where one side has no codes"


def test_records_of_one_prompt_stand_together() -> None:
    def record(name: str, prompt: str, member: int, **about: Any) -> Dialogue:
        generated = {"prompt": prompt, "member": member, "model": "m", "finished": member == 0, **about}
        generated["reference"] = {"codes": [7, 7], "audio": "/g.wav"}
        return Dialogue(name, ASKED, said(member + 1), {"generated": generated, "scores": {"s": member, "flag": True}})

    dropped = list[str]()
    records = [record("a#0", "a", 0), record("b#0", "b", 0), record("a#1", "a", 1), Dialogue("none", ASKED)]
    first, second = samples_by_prompt(records, GoldenPairs(), dropped.append)
    assert [(each.prompt, each.member, each.finished) for each in first] == [("a", 0, True), ("a", 1, False)]
    assert first[1].scores == {"s": 1.0} and first[0].about["model"] == "m" and "reference" not in first[0].about
    assert first[0].gold == Message("assistant", "", AudioClip("/g.wav", (7, 7)))
    assert (len(second), dropped) == (1, ["few"])
    own = samples_by_prompt(records, GoldenPairs(), dropped.append, gold={"a": said(3)})
    assert (own[0][0].gold, own[1][0].gold) == (said(3), None)
    plain = [Dialogue("x", ASKED, said(1)), Dialogue("y", ASKED, said(2)), Dialogue("z", (*ASKED, *ASKED), said(2))]
    assert [[each.prompt for each in group] for group in samples_by_prompt(plain, GoldenPairs(), print)] == [
        ["x", "x"], ["z"],
    ]  # fmt: skip


def test_given_pairs_are_looked_through() -> None:
    pair = Dialogue("p", ASKED, targets=(said(1), said(2)), members=(0, 1), scores=(2.0, None))
    lone = Dialogue("l", ASKED, targets=(said(1),), members=(1,))
    dropped = list[str]()
    (group,) = samples_by_prompt([pair, lone], GivenPairs(type="given"), dropped.append)
    (found,), _ = made(group, GivenPairs(type="given"))
    assert (found.chosen.answer, found.chosen.score, found.rejected and found.rejected.answer) == (
        said(1),
        2.0,
        said(2),
    )
    assert dropped == ["few"]
    cut = {"pair": {"stage": "s", "chosen": {"source": "golden"}, "rejected": {"model": "m", "finished": False}}}
    (group,) = samples_by_prompt([replace(pair, metadata=cut)], GivenPairs(type="given"), dropped.append)
    assert made(group, GivenPairs(type="given"))[1] == {"unfinished": 1}, "it was cut off, as its record says"
    (kept,), _ = made(group, GivenPairs(type="given", finished=("chosen",)))
    assert kept.rejected is not None and kept.rejected.about == {"model": "m", "finished": False, "id": "p"}


def test_a_record_says_how_it_came_about() -> None:
    near = AudioClip.of_codes((1, 2), "/run/stages/sample/data/part/0.wav")
    pair = Pair(
        "q", 0, Dialogue("q#0", ASKED, None, {"style": "sad", "generated": {}, "scores": {}}),
        Side(Message("assistant", "", AudioClip("/gold.wav")), {"source": "golden"}),
        Side(Message("assistant", "", near), {"model": "m"}, 0.5), 0.25,
    )  # fmt: skip
    found = record_of(pair, {"stage": "pair", "round": 2}, "/run/stages/pair/data")
    assert found == {
        "id": "q#2.0",
        "messages": [{"role": "user", "text": "w1"}],
        "chosen": {"audio": "/gold.wav"},
        "rejected": {"audio": "../../sample/data/part/0.wav", "codes": [1, 2], "score": 0.5},
        "metadata": {
            "style": "sad",
            "pair": {
                "stage": "pair",
                "round": 2,
                "prompt": "q",
                "chosen": {"source": "golden"},
                "rejected": {"model": "m"},
                "gap": 0.25,
            },
        },
    }
    again = Dialogue("q#2.0", ASKED, None, found["metadata"], "", (pair.chosen.answer, Message("assistant", "", near)),
                     (0, 1), (None, 0.5))  # fmt: skip
    assert record_again(again, "/run/stages/pair/data") == found
