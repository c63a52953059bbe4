"""A `generate` stage: the policy's answers to prompts, as records that later stages read.

The sound of a part lies in the folder of the same name beside it, see `dataset`. Prompts are answered in chunks, chunk
c by rank c modulo N, and an answer's draws depend on its prompt and its place in the group: so the answers are the same
on any number of processes.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.feeding.pair_records import GENERATED, turn_of
from wavalign.engine.stages.cursor import Cursor
from wavalign.engine.stages.dataset import SUMMARY, DatasetPart
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import storage_errors, write_json
from wavalign.engine.state.seeds import generator
from wavalign.engine.step.rollouts import Roller
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Rollout, RolloutGroup, TokenSequence
from wavalign.plugins.dialogues import flaws

SAMPLING = {"sampler", "group_size", "temperature", "top_k", "top_p", "streams", "max_new_tokens"}
"""Keys of `rollout` that say how answers are drawn."""
COUNTED = ("answers", "unfinished", "exact", "unusable")
"""`exact` are answers that will be learned token by token as they were sampled."""


def run(stage: StagePlan, cursor: Cursor) -> None:
    """Answer the prompts of this rank's chunks; the first rank sums up."""
    cursor.observer.stage(stage.name, 0)
    cursor.observer.waiting("building the model", 0, 0)
    answering, folder = cursor.answering(stage), cursor.stage_folder(stage)
    if answering.note:
        cursor.observer.message(answering.note)
    about = _about(stage, cursor.plan.seed, answering.policy)
    spoken = answering.options.need == "all"
    part = Part(folder, cursor.world, about, words=_learner(answering.roller), spoken=spoken)
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


def _learner(roller: Roller) -> Callable[[Dialogue], TokenSequence]:
    """What gives the answer of a record as it will be learned; it raises DataError where it cannot be."""

    def learned(dialogue: Dialogue) -> TokenSequence:
        roller.architecture.check_words(dialogue)
        return roller.encoder.target(dialogue)

    return learned


def fingerprint(policy: Policy) -> str:
    """Sum of a network's weights: names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@final
class Part:
    """One rank's share of the answers."""

    def __init__(
        self,
        folder: Path,
        world: World,
        about: Mapping[str, Any],
        *,
        words: Callable[[Dialogue], object],
        spoken: bool = True,
    ) -> None:
        """Go on with what an interrupted run wrote, if that was by the same weights.

        `words` raises DataError for a dialogue that cannot be learned, and may give its answer as it will be. Without
        `spoken` answers were sampled to the end of their text, and what they have of sound is a part.
        """
        self.about, self._words, self._spoken = dict(about), words, spoken
        self.file = DatasetPart(folder, world, about, COUNTED)
        self.name, self.path, self.sounds = self.file.name, self.file.path, self.file.sounds

    @property
    def chunks(self) -> int:
        """Chunks that are whole on the disk."""
        return self.file.chunks

    @property
    def counts(self) -> "Counter[str]":
        """Answers, and what is to be known of them."""
        return self.file.counts

    def add(self, groups: Sequence[RolloutGroup], *, first: int) -> None:
        """Write one more chunk; `first` is the place of its first prompt among all."""
        self.file.append([each for place, group in enumerate(groups) for each in self._records(group, first + place)])

    def _records(self, group: RolloutGroup, place: int) -> Iterator[dict[str, Any]]:
        for member, rollout in enumerate(group.rollouts):
            sound = self._sound(rollout, f"{place:06d}-{member}.wav")
            said = rollout.answer.text if rollout.answer.text.strip() else ""
            # The codes are what is learned again, exactly as it was sampled; the file is for ears.
            codes = rollout.answer.codes if self._spoken else ()
            clip = AudioClip.of_codes(codes, sound) if codes else None if sound is None else AudioClip(sound)
            target = Message("assistant", said, clip)
            row = self._learned(Dialogue(group.dialogue.id, group.dialogue.messages, target))
            if row is None:
                self.counts["unusable"] += 1
                continue
            exact = isinstance(row, TokenSequence) and torch.equal(row.ids, rollout.completion.ids)
            self.counts["answers"] += 1
            self.counts["exact"] += exact
            self.counts["unfinished"] += not rollout.answer.finished
            yield self._record(group.dialogue, target, member=member, rollout=rollout, exact=exact)

    def _learned(self, dialogue: Dialogue) -> object | None:
        """The answer as it will be learned; None where the record cannot be read again and learned from."""
        try:
            row = self._words(dialogue)
        except DataError:
            return None
        return None if flaws(dialogue) else (row or dialogue)

    def _record(
        self, prompt: Dialogue, target: Message, *, member: int, rollout: Rollout, exact: bool
    ) -> dict[str, Any]:
        about = {**self.about, "prompt": prompt.id, "member": member, "finished": rollout.answer.finished}
        about["exact"] = exact
        if prompt.target is not None:
            about["reference"] = turn_of(prompt.target)
        return {
            "id": f"{prompt.id}#{member}",
            "messages": [{"role": turn.role, **turn_of(turn)} for turn in prompt.messages],
            "target": turn_of(target),
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
        write_json(cursor.stage_folder(stage) / SUMMARY, {"files": files, **counts, **about})
