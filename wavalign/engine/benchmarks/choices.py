"""Which of several options an answer takes: a letter, or yes or no. None where it takes none, or more than one.

A letter is looked for, in this order, and the first way that finds any decides:

    alone        `B`, `(B)`, `Option B.`: the answer is a letter and nothing else
    stated       `the answer is B`, `I would choose option (B)`, `B is correct`, `答案是B`; several letters stated
                 differently are ambiguous, `not A` states nothing
    in front     `B. a telescope`, `(B) ...`: it opens the answer, and no other option is listed after it
    marked       `... (B)`, `**B**`, `"B"`, `B)`: one letter in brackets or marks, and no other

A capital `A` in running text is an article and no letter. VoiceBench finds a letter by a list of phrases and draws one
at random where none fits; here such an answer is wrong and counted.
"""

import re
import unicodedata
from collections.abc import Iterable

_MARKS = r"[\"'`*_(\[{\s]*"
_CLOSE = r"(?![^\W_])(?!')"
_NOUN = r"(?:option|choice|letter|answer|选项|選項)"
_TAKEN = rf"{_MARKS}(?:{_NOUN}\b)?{_MARKS}([A-J]){_CLOSE}"
_STATED = (
    rf"\b(?:answer|option|choice|response|solution)\b[^.\n?!]{{0,60}}?\b(?:is|be|are|was)\b:?{_TAKEN}",
    rf"\b(?:choose|chose|select|selected|pick|picked|go with|going with|say)\b{_TAKEN}",
    rf"\b(?:answer|{_NOUN})\s*[:=]{_MARKS}([A-J]){_CLOSE}",
    rf"\b{_NOUN}{_MARKS}([A-J])[)\]*\"'.:]*\s+(?:is|would be|seems|looks)\s+(?:the\s+)?(?:correct|right|best|most)\b",
    r"(?<![^\W_])([A-J])[)\]*\"']*\s+is\s+(?:the\s+)?(?:correct|right|best)\b",
    rf"(?:答案|正确选项|正確選項)(?:应该|應該)?(?:是|为|為|选|選)?[:：]?{_MARKS}(?:选项|選項)?{_MARKS}([A-J]){_CLOSE}",
    rf"(?:选择|選擇|选|選){_MARKS}(?:选项|選項)?{_MARKS}([A-J]){_CLOSE}",
)
_DENIED = re.compile(
    rf"\b(?:not|isn't|rather than|instead of|n't)\s+(?:{_NOUN}\s+)?[\"'(*]*[A-J]{_CLOSE}[)\"'*]*", re.IGNORECASE
)
_ARTICLE = re.compile(r" (?!(?:because|since|as|and|or|but|due|for|which|so)\b)[^\W_]", re.IGNORECASE)
_ALONE = re.compile(rf"(?:the\s+)?(?:correct\s+)?(?:{_NOUN})?{_MARKS}([A-Ja-j])[)\]}}*\"'`.:!]*", re.IGNORECASE)
_FRONT = re.compile(rf"{_MARKS}([A-J])\s*[).:\]]")
_MARKED = re.compile(r"\(([A-J])\)|\[([A-J])\]|\*\*([A-J])\b|[\"“]([A-J])[\"”.]|(?<![^\W_])([A-J])\)")
_NEGATED = re.compile(
    r"\b(?:not|isn't|n't|never|hardly)\s+(?:\w+\s+){0,2}?(?:plausible|possible|true|correct)\b"
    r"|\b(?:implausible|impossible|unlikely|untrue|incorrect|false)\b"
)
_AFFIRMED = re.compile(r"\b(?:plausible|likely|true|correct)\b")


def letter(answer: str, letters: str = "ABCD") -> str | None:
    """The letter of `letters` that `answer` takes; None where it takes none or several."""
    said = unicodedata.normalize("NFKC", answer).strip()
    found = _ALONE.fullmatch(said)
    if found is not None:
        return _only([found[1].upper()], letters)
    kept = _DENIED.sub(" ", said)
    matches = [each for pattern in _STATED for each in re.finditer(pattern, kept, re.IGNORECASE)]
    stated = [each[1].upper() for each in matches if not _is_article(each)]
    if stated:
        return _only(stated, letters)
    front = _FRONT.match(kept)
    marked = [next(filter(None, each.groups())) for each in _MARKED.finditer(kept)]
    if front is not None:
        listed = [each[1] for line in kept.splitlines()[1:] if (each := _FRONT.match(line)) is not None]
        return _only([front[1], *marked, *listed], letters)
    return _only(marked, letters)


def options_in(question: str) -> str:
    """Letters of the options that a question lists, `ABCD` where it lists none that can be told."""
    listed = re.findall(r"(?:^|[\n\s(])([A-J])\s*[).:]\s", f"\n{question} ")
    run = ""
    for each in "ABCDEFGHIJ":
        if each not in listed:
            break
        run += each
    return run if len(run) > 1 else "ABCD"


def yes_or_no(answer: str) -> str | None:
    """`yes` or `no` as an answer opens, ends or concludes; None where it says neither, or both.

    `plausible`, `likely`, `true` and `correct` count as yes where the answer holds neither word, and denied as no.
    """
    said = unicodedata.normalize("NFKC", answer).casefold().replace("’", "'")
    words = re.findall(r"[^\W_]+", said)
    if not words:
        return None
    concluded = re.findall(r"\banswer\b[^.\n?!]{0,40}?\b(?:is|be)\b\W*(yes|no)\b", said)
    if concluded:
        return _one(concluded)
    opens = words[0] if words[0] in ("yes", "no") else None
    ends = words[-1] if words[-1] in ("yes", "no") else None
    if opens or ends:
        return _one([each for each in (opens, ends) if each])
    negated = bool(_NEGATED.search(said))
    affirmed = bool(_AFFIRMED.search(_NEGATED.sub(" ", said)))
    if negated == affirmed:
        return None
    return "no" if negated else "yes"


def _is_article(found: "re.Match[str]") -> bool:
    """Whether a stated `a` stands before a word that it may belong to: `the answer is a telescope`."""
    return found[1] in ("a", "A") and _ARTICLE.match(found.string, found.end(1)) is not None


def _only(found: Iterable[str], letters: str) -> str | None:
    kinds = {each for each in found if each in letters}
    return kinds.pop() if len(kinds) == 1 else None


def _one(found: Iterable[str]) -> str | None:
    kinds = set(found)
    return kinds.pop() if len(kinds) == 1 else None
