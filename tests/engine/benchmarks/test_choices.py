"""Which option an answer takes: alone, stated, in front, marked; none and several are told apart from a choice."""

import pytest

from wavalign.engine.benchmarks.choices import letter, options_in, yes_or_no


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        ("B", "B"), ("b.", "B"), ("a", "A"), ("(C)", "C"), ("Option B.", "B"), ("**D**", "D"), ("Ｂ", "B"),
        ("The answer is B.", "B"), ("The correct answer is (B) a telescope", "B"), ("The answer is a.", "A"),
        ("answer: d", "D"), ("I would choose option D", "D"), ("I'd say B.", "B"), ("B is correct", "B"),
        ("The best option is **C: x**", "C"), ("The correct choice would be B", "B"), ("答案是B", "B"), ("选C", "C"),
        ("It is A because of the light: the answer is A because it bends.", "A"),
        ("A. telescope", "A"), ("(B) a mirror, which reflects", "B"), ("So (B)", "B"),
        ("It is not A, the answer is C", "C"),
    ],
)  # fmt: skip
def test_a_letter_that_is_taken(answer: str, taken: str) -> None:
    assert letter(answer) == taken


@pytest.mark.parametrize(
    "answer",
    [
        "", "I'm sorry, I cannot answer that.", "The answer is a telescope.", "A telescope is best",
        "I think it's A telescope.", "It could be (A) or (B)", "A. red\nB. blue", "Both (A) and (D) are right.",
        "The answer is B. No, the answer is C.", "I am not sure", "The answer is E", "So I say I would go",
    ],
)  # fmt: skip
def test_no_letter_or_several_are_none(answer: str) -> None:
    assert letter(answer) is None


def test_the_letters_are_those_of_the_question() -> None:
    assert options_in("Which?\nA. x\nB. y\nC. z\nD. u\nE. v") == "ABCDE"
    assert options_in("Which? (A) or (B) x") == "AB"
    assert options_in("Which of them?") == "ABCD"
    assert (letter("The answer is E", "ABCDE"), letter("The answer is C", "AB")) == ("E", None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"), ("No, it is not.", "no"), ("Let me think. Yes", "yes"), ("so the answer is no", "no"),
        ("The sentence is plausible.", "yes"), ("it's not very plausible", "no"), ("It is unlikely", "no"),
        ("yes or no", None), ("", None), ("Perhaps.", None), ("It is plausible, or it is not plausible.", None),
        ("The answer is yes. No, the answer is no.", None), ("Nobody knows", None),
    ],
)  # fmt: skip
def test_yes_and_no(answer: str, said: str | None) -> None:
    assert yes_or_no(answer) == said
