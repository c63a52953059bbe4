"""A model's answers to a benchmark: drawn, written down, scored as far as that needs no one else, and summed up."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final

import torch

from wavalign import __version__
from wavalign.engine.benchmarks.answer_file import AnswerFile, Given, file_name
from wavalign.engine.benchmarks.costly import heard_texts, judged, pairs_of
from wavalign.engine.benchmarks.layouts import SuiteFile
from wavalign.engine.benchmarks.models import OpenModel
from wavalign.engine.benchmarks.questions import Benchmark, Question, Task, benchmark, component
from wavalign.engine.benchmarks.scoring import Score, contains, is_missing, measures_of, word_errors
from wavalign.engine.benchmarks.values import Column, Value, value_of
from wavalign.engine.run.choosing import Chosen
from wavalign.engine.state.files import storage_errors, write_json, write_text
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.state.seeds import generator
from wavalign.engine.step.sampling import evaluation_options
from wavalign.plugins.api import SamplingOptions
from wavalign.redaction import REDACTOR

Pair = tuple[Question, Given]
ROOT = Path("evaluations")
SUMMARY, SCORES = "summary.json", "scores.jsonl"


class Watcher(Protocol):
    """Tells a person how far it is."""

    def progress(self, what: str, done: int, total: int) -> None:
        """So much of something is done."""

    def message(self, text: str) -> None:
        """Something is worth one line."""


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be evaluated, and how."""

    data: str
    """File, pattern or folder of questions."""
    out: Path | None = None
    """Where answers go; None for a folder under `evaluations/`."""
    suite: str | None = None
    """Whose file it is; None looks at it."""
    subset: str | None = None
    task: Task | None = None
    modality: str = "audio"
    limit: int | None = None
    seed: int = 0
    chunk: int = 16
    """Questions answered together."""
    max_new_tokens: int | None = None
    judge: str | None = None
    """A reward of the recipe that judges."""
    hear: bool = False
    """Whether a recogniser listens to the answers."""
    overwrite: bool = False


@final
@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came of it."""

    folder: Path
    model: str
    """In words."""
    bench: Benchmark
    answers: int
    drawn: int
    """Answers that were not there before."""
    values: Sequence[Value]
    notes: Sequence[str]
    """What is not scored, or not to be taken for something else, and what to do."""
    suite_file: Path | None
    command: str
    """How the suite scores that file."""
    spent: Mapping[str, float]
    """What the judge has counted this time, e.g. requests and cost."""


def evaluate(chosen: Chosen, asked: Asked, watcher: Watcher) -> Evaluated:
    """Answer what is not answered yet, then score everything; UsageError where the folder is of another model."""
    threads = chosen.plan.runtime.threads
    torch.set_num_threads(threads or os.cpu_count() or 1)
    model = OpenModel(chosen, watcher.progress)
    try:
        bench = _questions(model, asked)
        subset = file_name(bench.subset)
        out = asked.out if asked.out is not None else ROOT / file_name(chosen.name) / f"{bench.suite}-{subset}"
        folder = RunFolder(out)
        with storage_errors(str(out)):
            out.mkdir(parents=True, exist_ok=True)
        folder.lock()
        try:
            return _Evaluation(model, bench, asked, out, watcher).run()
        finally:
            folder.unlock()
    finally:
        model.close()


def _questions(model: OpenModel, asked: Asked) -> Benchmark:
    source = model.builder.prepared_source(component(asked.data, suite=asked.suite, modality=asked.modality))
    dialogues = [source.record(index) for index in range(len(source))]
    return benchmark(dialogues, asked.data, limit=asked.limit, subset=asked.subset, task=asked.task)


@final
class _Evaluation:
    """One evaluation under way, its folder locked."""

    def __init__(self, model: OpenModel, bench: Benchmark, asked: Asked, folder: Path, watcher: Watcher) -> None:
        self.model, self.bench, self.asked, self.folder = model, bench, asked, folder
        self.progress, self.say = watcher.progress, watcher.message
        self.spent: Mapping[str, float] = {}
        """What the judge has counted."""
        sections = model.chosen.stage.stage
        limit = asked.max_new_tokens or sections.rollout.max_new_tokens
        self.options: SamplingOptions = replace(
            evaluation_options(sections.evaluation.sampling, max_new_tokens=limit), group_size=1
        )

    def run(self) -> Evaluated:
        file = AnswerFile(self.folder, self._about(), overwrite=self.asked.overwrite)
        before = len(file.given)
        if before:
            self.say(f"{before} of {len(self.bench.questions)} answers are there already")
        self._answer(file)
        pairs = list(pairs_of(self.bench.questions, file.given))
        suite = SuiteFile(self.folder, self.bench, model=self.model.chosen.name)
        written = suite.write(pairs)
        values, notes = self._scored(pairs, suite)
        done = Evaluated(
            folder=self.folder,
            model=self.model.chosen.says,
            bench=self.bench,
            answers=len(pairs),
            drawn=len(file.given) - before,
            values=values,
            notes=notes,
            suite_file=written,
            command=suite.command(),
            spent=self.spent,
        )
        write_json(self.folder / SUMMARY, {**as_json(done), "about": file.about})
        return done

    def _about(self) -> dict[str, Any]:
        """What makes the answers these; whoever goes on with them must have the same."""
        stage = self.model.chosen.stage.stage
        return {
            "model": self.model.fingerprint[:32],
            "network": stage.model.architecture.model_dump(mode="json"),
            "codec": None if stage.model.codec is None else stage.model.codec.model_dump(mode="json"),
            "precision": self.model.chosen.plan.runtime.precision,
            "data": data_digest(self.bench.questions),
            "seed": self.asked.seed,
            "sampling": stage.evaluation.sampling.model_dump(mode="json"),
            "sampler": stage.rollout.sampler.model_dump(mode="json"),
            "max_new_tokens": self.options.max_new_tokens,
            "together": self.asked.chunk,
        }

    # --- answers ------------------------------------------------------------------------------------------------------

    def _answer(self, file: AnswerFile) -> None:
        left = self.bench.questions[len(file.given) :]
        if not left:
            return
        roller, total = self.model.roller, len(self.bench.questions)
        lengths = self.model.builder.lengths(
            self.model.chosen.stage, "evaluation.benchmark", roller.architecture, roller.encoder
        )
        lengths.refuse(each.dialogue for each in left)
        self.progress("building the model", 0, 0)
        policy = self.model.policy()
        if self.model.codec is None or not self.model.codec.can_decode:
            self.say("the answers have no sound: the recipe names no codec that decodes")
        for start in range(0, len(left), self.asked.chunk):
            self.progress("answering", total - len(left) + start, total)
            part = left[start : start + self.asked.chunk]
            # Every chunk has the same generator: draws depend on the dialogue.
            draws = generator(self.asked.seed, "evaluation")
            groups = roller.sample(policy, [each.dialogue for each in part], self.options, draws)
            given = []
            for question, group in zip(part, roller.with_sound(groups), strict=True):
                (rollout,) = group.rollouts
                name = f"{question.place:06d}-{question.dialogue.id}"
                path, seconds = file.write_sound(rollout.waveform, name)
                answer = rollout.answer
                given.append(Given(question.place, question.dialogue.id, answer.text, answer.finished, seconds, path))
            file.append(given)
        self.progress("answering", total, total)

    # --- scores -------------------------------------------------------------------------------------------------------

    def _scored(self, pairs: Sequence[Pair], suite: SuiteFile) -> tuple[list[Value], list[str]]:
        columns = [*self._told(pairs), *self._heard(pairs), *self._judged(pairs), *_shape(pairs)]
        self._write_scores(pairs, {each.name: each.scores for each in columns})
        return [value_of(each) for each in columns], list(_notes(self.bench, self.asked, suite))

    def _told(self, pairs: Sequence[Pair]) -> Iterator[Column]:
        """What the words of answers tell."""
        for each in measures_of(self.bench.task):
            scores = [each.score(question, given.text) for question, given in pairs]
            if each.optional and all(map(is_missing, scores)):
                continue
            yield Column(each.name, scores, each.unit, each.says, each.less)

    def _heard(self, pairs: Sequence[Pair]) -> Iterator[Column]:
        """What a recogniser hears, where one is to listen."""
        if not self.asked.hear:
            return
        heard = heard_texts(self.folder, [given for _, given in pairs], self.progress)
        silent = Score(None, "the answer has no sound")

        def of(given: Given, score: Callable[[str], Score]) -> Score:
            text = heard[given.place]
            return silent if text is None else replace(score(text), details={"heard": text})

        own = [of(given, partial(word_errors, wanted=given.text)) for _, given in pairs]
        says = "words that Whisper hears otherwise than written, over the words written"
        yield Column("heard_own_text", own, "ratio", says, less=True)
        if self.bench.task == "reference":
            said = [of(given, partial(contains, question)) for question, given in pairs]
            yield Column("heard_contains", said, "share", "an accepted answer is heard by Whisper")

    def _judged(self, pairs: Sequence[Pair]) -> Iterator[Column]:
        """What the reward says that is to judge."""
        name = self.asked.judge
        if name is not None:
            by = judged(self.model, name, self.folder, pairs, self.progress)
            self.spent = by.spent
            scores = [by.scores[given.place] for _, given in pairs]
            yield Column(f"judge/{name}", scores, "mean", f"reward `{name}` of the recipe, on its scale")

    def _write_scores(self, pairs: Sequence[Pair], columns: Mapping[str, Sequence[Score]]) -> None:
        lines = []
        for index, (question, given) in enumerate(pairs):
            mine = {name: scores[index] for name, scores in columns.items()}
            line = {
                "place": given.place,
                "dialogue": given.dialogue,
                "key": data_digest([question]),
                "question": question.text,
                "text": given.text,
                "correct": list(question.correct),
                "values": {name: each.value for name, each in mine.items()},
                "reasons": {name: each.reason for name, each in mine.items() if each.reason},
                "details": {f"{name}/{key}": x for name, each in mine.items() for key, x in each.details.items()},
            }
            lines.append(json.dumps(REDACTOR.tree(line), ensure_ascii=False) + "\n")
        write_text(self.folder / SCORES, "".join(lines))


def _shape(pairs: Sequence[Pair]) -> Iterator[Column]:
    """Whether answers are answers at all."""
    ended = [Score(float(given.finished)) for _, given in pairs]
    yield Column("finished", ended, "share", "ended by itself, not by the token limit")
    empty = [Score(float(not given.text.strip())) for _, given in pairs]
    yield Column("empty", empty, "share", "has no text", less=True)


def _notes(bench: Benchmark, asked: Asked, suite: SuiteFile) -> Iterator[str]:
    by_suite = f", or score the file by the suite: {suite.command()}" if suite.command() else ""
    if bench.task in ("open", "style") and asked.judge is None:
        what = "what is said and how" if bench.task == "style" else "an open question"
        yield (
            f"{bench.subset}: {what} is for a judge to score, and none is named; "
            f"state a reward that judges in the recipe and name it (--judge NAME){by_suite}"
        )
    if bench.task == "instructions":
        yield f"{bench.subset}: instructions are checked by the suite's own rules: {suite.command()}"
    if bench.suite == "voicebench" and bench.task == "reference" and asked.judge is None:
        yield (
            f"{bench.subset}: the suite's accuracy is a judge's word on every answer; `contains` is not that number "
            f"and not to be compared with it. Name a judge (--judge NAME){by_suite}"
        )
    if bench.suite == "voicebench" and bench.task in ("choice", "yes_no"):
        yield (
            f"{bench.subset}: an answer that takes no option is wrong here; the suite guesses one at random for it, "
            "so that its number is higher by what guessing is worth"
        )


def data_digest(questions: Sequence[Question]) -> str:
    """Sum of what is asked and what is correct, wherever its files lie."""
    content = [
        [
            each.dialogue.id,
            [
                [turn.role, turn.text, os.path.basename(turn.audio.url) if turn.audio else None]
                for turn in each.dialogue.messages
            ],
            each.suite,
            list(each.correct),
            each.wanted,
        ]
        for each in questions
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def as_json(done: Evaluated) -> dict[str, Any]:
    """For programs."""
    return {
        "folder": str(done.folder),
        "model": done.model,
        "suite": done.bench.suite,
        "subset": done.bench.subset,
        "task": done.bench.task,
        "questions": done.bench.total,
        "answers": done.answers,
        "drawn": done.drawn,
        "values": {each.name: each.as_json() for each in done.values},
        "judge": dict(done.spent),
        "notes": list(done.notes),
        "suite_file": None if done.suite_file is None else str(done.suite_file),
        "suite_command": done.command or None,
        "wavalign": __version__,
    }
