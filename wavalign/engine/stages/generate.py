"""A `generate` stage: the policy's answers to prompts, as records that later stages read.

`data/part-R-of-N.jsonl` holds the answers of rank R of N in the format of `{type: jsonl}`, with its sound in the folder
of the same name beside it; `data` as a whole is the data set. Prompts are answered in chunks, chunk c by rank c modulo
N, and an answer's draws depend on its prompt and its place in the group: so the answers are the same on any number of
processes. Beside `data` every rank remembers what of its part is whole: a run that is killed cuts off the rest and
repeats the chunk it was in.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.stages.cursor import Cursor
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import read_json, storage_errors, write_json
from wavalign.engine.state.seeds import generator
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Rollout, RolloutGroup
from wavalign.plugins.dialogues import flaws
from wavalign.redaction import REDACTOR

DATA = "data"
"""Folder of a stage that holds what it wrote."""
GENERATED = "generated"
"""Where the metadata of a record says how it came about."""
SAMPLING = {"sampler", "group_size", "temperature", "top_k", "top_p", "streams", "max_new_tokens"}
"""Keys of `rollout` that say how answers are drawn."""
COUNTED = ("answers", "unfinished", "unusable")


def run(stage: StagePlan, cursor: Cursor) -> None:
    """Answer the prompts of this rank's chunks; the first rank sums up."""
    cursor.observer.stage(stage.name, 0)
    cursor.observer.waiting("building the model", 0, 0)
    answering, folder = cursor.answering(stage), cursor.stage_folder(stage)
    if answering.note:
        cursor.observer.message(answering.note)
    about = _about(stage, cursor.plan.seed, answering.policy)
    part = Part(folder, cursor.world, about, words=answering.roller.architecture.check_words)
    size = stage.stage.generate.chunk
    chunks = [answering.prompts[start : start + size] for start in range(0, len(answering.prompts), size)]
    mine = list(enumerate(chunks))[cursor.world.rank :: cursor.world.size]
    done, total = sum(len(prompts) for _, prompts in mine[: part.chunks]), sum(len(prompts) for _, prompts in mine)
    for number, prompts in mine[part.chunks :]:
        cursor.observer.progress("answering prompts", done, total)
        # Every chunk has the same generator: draws depend on the dialogue and the place in its group.
        draws = generator(cursor.plan.seed, stage.name, "generate")
        groups = answering.roller.sample(answering.policy, prompts, answering.options, draws)
        part.add(answering.roller.with_sound(groups), first=number * size)
        done += len(prompts)
    cursor.observer.progress("answering prompts", total, total)
    _sum_up(cursor, stage, part, about)
    cursor.complete(stage)


def _about(stage: StagePlan, seed: int, policy: Policy) -> dict[str, Any]:
    """What all records of a stage say of where they come from."""
    sampling = stage.stage.rollout.model_dump(mode="json", include=SAMPLING)
    return {"stage": stage.name, "model": fingerprint(policy), "seed": seed, "sampling": sampling}


def fingerprint(policy: Policy) -> str:
    """Sum of a network's weights: names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@final
class Part:
    """One rank's share of a data set, and how much of it is whole."""

    def __init__(
        self, folder: Path, world: World, about: Mapping[str, Any], *, words: Callable[[Dialogue], None]
    ) -> None:
        """Go on with what an interrupted run wrote, if that was by the same weights.

        `words` raises DataError for a dialogue that cannot be learned.
        """
        self.about, self._words = dict(about), words
        self.name = f"part-{world.rank:05d}-of-{world.size:05d}"
        self.path, self.sounds = folder / DATA / f"{self.name}.jsonl", folder / DATA / self.name
        self._mark = folder / f"{self.name}.json"
        self.chunks = self._bytes = 0
        """Chunks that are whole on the disk."""
        self.counts = Counter(dict.fromkeys(COUNTED, 0))
        with storage_errors(str(folder)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._take_up()

    def add(self, groups: Sequence[RolloutGroup], *, first: int) -> None:
        """Write one more chunk; `first` is the place of its first prompt among all."""
        records = [each for place, group in enumerate(groups) for each in self._records(group, first + place)]
        text = "".join(json.dumps(REDACTOR.tree(each), ensure_ascii=False, allow_nan=False) + "\n" for each in records)
        if records:
            with storage_errors(str(self.path)), self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        self.chunks, self._bytes = self.chunks + 1, self._bytes + len(text.encode())
        mark = {"chunks": self.chunks, "bytes": self._bytes, "counts": dict(self.counts), "about": self.about}
        write_json(self._mark, mark)

    def _take_up(self) -> None:
        mark = read_json(self._mark) if self._mark.exists() else {}
        there = self.path.stat().st_size if self.path.exists() else 0
        if mark.get("about") == REDACTOR.tree(self.about) and there >= int(mark["bytes"]):
            self.chunks, self._bytes, self.counts = mark["chunks"], mark["bytes"], Counter(mark["counts"])
        else:
            self._mark.unlink(missing_ok=True)
            shutil.rmtree(self.sounds, ignore_errors=True)
        if self._bytes:
            os.truncate(self.path, self._bytes)
        else:
            self.path.unlink(missing_ok=True)

    def _records(self, group: RolloutGroup, place: int) -> Iterator[dict[str, Any]]:
        for member, rollout in enumerate(group.rollouts):
            sound = self._sound(rollout, f"{place:06d}-{member}.wav")
            said = rollout.answer.text if rollout.answer.text.strip() else ""
            codes = rollout.answer.codes
            clip = AudioClip.of_codes(codes, sound) if codes else None if sound is None else AudioClip(sound)
            target = Message("assistant", said, clip)
            if not self._usable(Dialogue(group.dialogue.id, group.dialogue.messages, target)):
                self.counts["unusable"] += 1
                continue
            self.counts["answers"] += 1
            self.counts["unfinished"] += not rollout.answer.finished
            yield self._record(group.dialogue, target, member=member, finished=rollout.answer.finished)

    def _usable(self, dialogue: Dialogue) -> bool:
        """Whether the record can be read again and learned from: it says something, in words that can be written."""
        try:
            self._words(dialogue)
        except DataError:
            return False
        return not flaws(dialogue)

    def _record(self, prompt: Dialogue, target: Message, *, member: int, finished: bool) -> dict[str, Any]:
        about = {**self.about, "prompt": prompt.id, "member": member, "finished": finished}
        if prompt.target is not None:
            about["reference"] = _turn(prompt.target)
        return {
            "id": f"{prompt.id}#{member}",
            "messages": [{"role": turn.role, **_turn(turn)} for turn in prompt.messages],
            "target": _turn(target),
            "metadata": {**prompt.metadata, GENERATED: about},
        }

    def _sound(self, rollout: Rollout, name: str) -> str | None:
        """Write an answer's sound; gives its path from the folder of the part."""
        if rollout.waveform is None or not len(rollout.waveform.samples):
            return None
        with storage_errors(str(self.sounds)):
            self.sounds.mkdir(exist_ok=True)
        path = self.sounds / name
        audio.write(rollout.waveform, path)
        with storage_errors(str(path)), path.open("rb") as file:
            os.fsync(file.fileno())  # the record that names it is not to outlive it
        return f"{self.name}/{name}"


def _turn(turn: Message) -> dict[str, Any]:
    """A turn's words and sound, what is there of them."""
    found: dict[str, Any] = {"text": turn.text} if turn.text else {}
    if turn.audio is not None and turn.audio.has_sound:
        found["audio"] = turn.audio.url
    if turn.audio is not None and turn.audio.codes is not None:
        found["codes"] = list(turn.audio.codes)
    return found


def _sum_up(cursor: Cursor, stage: StagePlan, part: Part, about: Mapping[str, Any]) -> None:
    """Say what all ranks wrote; raises DataError, on all of them, where no answer can be used."""
    parts = cursor.world.gather([part.name, dict(part.counts)])
    counts = {name: sum(each[1][name] for each in parts) for name in COUNTED}
    if not counts["answers"]:
        raise DataError(
            f"none of the {counts['unusable']} answers of stage {stage.name} has words or sound",
            hint="start from weights that answer, or raise rollout.max_new_tokens",
        )
    left_out = (
        f", {counts['unusable']} left out because they say nothing that can be learned" if counts["unusable"] else ""
    )
    cut = f", {counts['unfinished']} of them cut off by max_new_tokens" if counts["unfinished"] else ""
    cursor.observer.message(f"stage {stage.name} wrote {counts['answers']} answers{cut}{left_out}")
    if cursor.world.is_first:
        files = [f"{name}.jsonl" for name, count in parts if count["answers"]]
        write_json(cursor.stage_folder(stage) / "dataset.json", {"files": files, **counts, **about})
