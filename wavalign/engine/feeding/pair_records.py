"""Records to samples, and pairs to records."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from wavalign.engine.feeding.pairing import Drop, Pair, Sample, Side
from wavalign.plugins.batch import SIDES, AudioClip, Dialogue, Message
from wavalign.schema.pairs import GivenPairs, PairsSection

GENERATED = "generated"
"""Where the metadata of an answer's record says how it came about."""
SCORES = "scores"
"""Where it says what the answer is worth, by name."""
PAIR = "pair"
"""Where that of a pair's record says how it came about."""
MADE = (GENERATED, SCORES, PAIR)


def samples_by_prompt(
    dialogues: Iterable[Dialogue], section: PairsSection, drop: Drop, *, gold: Mapping[str, Message] | None = None
) -> list[list[Sample]]:
    """Answers, those to one prompt together, in the order of the records; `gold` has golden answers by prompt.

    `drop` is told of records that hold no answer, or no pair where pairs are given.
    """
    found: dict[str, list[Sample]] = {}
    for dialogue in dialogues:
        samples = _given(dialogue) if isinstance(section, GivenPairs) else _single(dialogue)
        if not samples:
            drop("few")
            continue
        about = dialogue.metadata.get(GENERATED)
        known = about.get("prompt") if isinstance(about, Mapping) else None
        key = str(known) if known is not None else repr(dialogue.messages)
        group = found.setdefault(key, [])
        name = group[0].prompt if group else (dialogue.id if known is None else str(known))
        for sample in samples:
            member = len(group) if sample.member < 0 else sample.member
            given = sample.gold if gold is None else gold.get(name)
            group.append(replace(sample, prompt=name, member=member, gold=given))
    return list(found.values())


def _single(dialogue: Dialogue) -> list[Sample]:
    """The answer of a record; none where it has no target, or several."""
    about = dialogue.metadata.get(GENERATED)
    about = about if isinstance(about, Mapping) else {}
    if dialogue.target is None:
        return []
    kept = {key: value for key, value in about.items() if key != "reference"}
    reference = about.get("reference")
    return [
        Sample(
            dialogue,
            "",
            int(about.get("member", -1)),
            finished=about.get("finished") is not False,
            gold=_message(reference) if isinstance(reference, Mapping) else None,
            scores=_numbers(dialogue.metadata.get(SCORES)),
            about={"id": dialogue.id, **kept},
        )
    ]


def _given(dialogue: Dialogue) -> list[Sample]:
    """The two sides of a record; none where it has not both."""
    if dialogue.members != (0, 1):
        return []
    scores = dialogue.scores or (None, None)
    return [
        Sample(
            single,
            "",
            -1,
            finished=known.get("finished") is not False,
            scores={} if score is None else {"score": score},
            about={**known, "id": dialogue.id},
        )
        for single, score, known in zip(dialogue.singles, scores, _known_of(dialogue), strict=True)
    ]


def _known_of(dialogue: Dialogue) -> Iterator[Mapping[str, Any]]:
    """What a pair's record says of its sides, where it was made as one."""
    about = dialogue.metadata.get(PAIR)
    for side in SIDES:
        known = about.get(side) if isinstance(about, Mapping) else None
        yield known if isinstance(known, Mapping) else {}


def _numbers(value: object) -> dict[str, float]:
    found = value.items() if isinstance(value, Mapping) else ()
    return {str(name): float(each) for name, each in found if isinstance(each, Real) and not isinstance(each, bool)}


def _message(turn: Mapping[str, Any]) -> Message:
    """A turn as a record's metadata holds it."""
    url, codes = turn.get("audio"), turn.get("codes")
    clip = AudioClip.of_codes(codes, url) if codes is not None else None if url is None else AudioClip(url)
    return Message("assistant", str(turn.get("text", "")), clip)


def record_of(pair: Pair, about: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A pair as a line of the file in `folder`; `about` says who makes it."""
    prompt = {key: value for key, value in pair.dialogue.metadata.items() if key not in MADE}
    said: dict[str, Any] = {**about, "prompt": pair.prompt, "chosen": dict(pair.chosen.about)}
    answers: dict[str, Any] = {"target": turn_of(pair.chosen.answer, folder)}
    if pair.rejected is not None:
        said["rejected"] = dict(pair.rejected.about)
        answers = {"chosen": _side(pair.chosen, folder), "rejected": _side(pair.rejected, folder)}
    elif pair.chosen.score is not None:
        said["score"] = pair.chosen.score
    if pair.gap is not None:
        said["gap"] = pair.gap
    number = pair.number if about.get("round") is None else f"{about['round']}.{pair.number}"
    return {
        "id": f"{pair.prompt}#{number}",
        "messages": _turns(pair.dialogue, folder),
        **answers,
        "metadata": {**prompt, PAIR: said},
    }


def record_again(dialogue: Dialogue, folder: str) -> dict[str, Any]:
    """What an earlier round wrote, as a line of the file in `folder`."""
    answers: dict[str, Any] = {name: turn_of(answer, folder) for name, answer in dialogue.named_answers}
    for (name, _), score in zip(dialogue.named_answers, dialogue.scores, strict=False):
        answers[name] |= {} if score is None else {"score": score}
    return {
        "id": dialogue.id,
        "messages": _turns(dialogue, folder),
        **answers,
        "metadata": dict(dialogue.metadata),
    }


def _side(side: Side, folder: str) -> dict[str, Any]:
    return turn_of(side.answer, folder) | ({} if side.score is None else {"score": side.score})


def _turns(dialogue: Dialogue, folder: str) -> Sequence[dict[str, Any]]:
    return [{"role": turn.role, **turn_of(turn, folder)} for turn in dialogue.messages]


def turn_of(turn: Message, folder: str = "") -> dict[str, Any]:
    """A turn's words and sound, what is there of them; a file beside `folder` is named from there.

    So a folder of runs may be moved, and two runs of one recipe write the same bytes.
    """
    found: dict[str, Any] = {"text": turn.text} if turn.text else {}
    clip = turn.audio
    if clip is not None and clip.has_sound:
        found["audio"] = _named_from(clip.url, folder)
    if clip is not None and clip.codes is not None:
        found["codes"] = list(clip.codes)
    return found


def _named_from(url: str, folder: str) -> str:
    """A local file that a stage of the same run wrote, from `folder`, which is RUN/stages/NAME/data; else `url`."""
    stages = os.path.dirname(os.path.dirname(folder)) if folder else ""
    near = bool(stages) and url.startswith(stages + os.sep)
    return os.path.relpath(url, folder) if near else url
