"""Answers in the layout that a suite's own scorers read.

    VoiceBench       `MODEL-SUBSET-test-MODALITY.jsonl`: the row without its sound, and `response`
    UltraEval-Audio  `last_res.jsonl`: lines of its recorder, `{type: inference, id, data: {content}}`, which its
                     `--resume` takes up; `content` is JSON of `text` and `audio`
    VStyle           `metadata.jsonl`: the row, `model_name`, `response_text` and `response_audio_path` under `audio/`

`dialogues` have no suite: `answers.jsonl` and `scores.jsonl` are all there is.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

from wavalign.engine.benchmarks.answer_file import AUDIO, Given, file_name
from wavalign.engine.benchmarks.questions import Benchmark, Question
from wavalign.engine.state.files import write_text
from wavalign.redaction import REDACTOR

_EVALUATORS = {
    "open": "open", "reference": "qa", "choice": "mcq", "yes_no": "bbh", "instructions": "ifeval", "refusal": "harm"
}  # fmt: skip
"""Of VoiceBench, by task."""


@final
class SuiteFile:
    """What is written of one benchmark for its suite, and the command that scores it there."""

    def __init__(self, folder: Path, bench: Benchmark, *, model: str) -> None:
        self.folder, self.bench, self.model = folder, bench, file_name(model)

    @property
    def path(self) -> Path | None:
        """The file; None for dialogues."""
        names = {"voicebench": self._voicebench_name(), "ultraeval": "last_res.jsonl", "vstyle": "metadata.jsonl"}
        name = names.get(self.bench.suite)
        return None if name is None else self.folder / name

    def write(self, pairs: Sequence[tuple[Question, Given]]) -> Path | None:
        """Write it whole; gives its path."""
        path = self.path
        if path is not None:
            made = {"voicebench": self._voicebench, "ultraeval": self._ultraeval, "vstyle": self._vstyle}
            lines = (json.dumps(REDACTOR.tree(each), ensure_ascii=False) for each in made[self.bench.suite](pairs))
            write_text(path, "".join(f"{line}\n" for line in lines))
        return path

    def command(self) -> str:
        """How the suite scores it; empty for dialogues."""
        if self.bench.suite == "voicebench":
            return self._voicebench_command()
        if self.bench.suite == "ultraeval":
            return f"python audio_evals/main.py --dataset NAME --model NAME --resume {self.path}"
        if self.bench.suite == "vstyle":
            where = f"--root_dir {self.folder / AUDIO} --metadata_path {self.path}"
            return f"python lalm_eval/gemini_eval.py {where} --out_dir DIR --gemini_api_key KEY"
        return ""

    # --- VoiceBench ---------------------------------------------------------------------------------------------------

    def _voicebench_name(self) -> str:
        modality = "audio" if self.bench.spoken else "text"
        return f"{self.model}-{file_name(self.bench.subset)}-test-{modality}.jsonl"

    def _voicebench(self, pairs: Sequence[tuple[Question, Given]]) -> Iterator[dict[str, Any]]:
        for question, given in pairs:
            row = {key: value for key, value in question.row.items() if key not in ("audio", "response")}
            yield {**row, "response": given.text}

    def _voicebench_command(self) -> str:
        evaluator, name = _EVALUATORS.get(self.bench.task, "open"), self._voicebench_name()
        if evaluator not in ("open", "qa"):
            return f"python evaluate.py --src_file {name} --evaluator {evaluator}"
        return (
            f"python api_judge.py --src_file {name} && "
            f"python evaluate.py --src_file result-{name} --evaluator {evaluator}"
        )

    # --- UltraEval-Audio ----------------------------------------------------------------------------------------------

    def _ultraeval(self, pairs: Sequence[tuple[Question, Given]]) -> Iterator[dict[str, Any]]:
        for question, given in pairs:
            content = {"text": given.text}
            if given.audio is not None:
                content["audio"] = os.path.abspath(self.folder / given.audio)
            said = json.dumps(REDACTOR.tree(content), ensure_ascii=False)
            yield {"type": "inference", "id": question.place, "data": {"content": said}}

    # --- VStyle -------------------------------------------------------------------------------------------------------

    def _vstyle(self, pairs: Sequence[tuple[Question, Given]]) -> Iterator[dict[str, Any]]:
        for question, given in pairs:
            row = dict(question.row)
            yield {
                **row,
                "id": row.get("id") or row.get("instruct_id") or question.place + 1,  # 0 is no id there
                "model_name": self.model,
                "response_text": given.text,
                "response_audio_path": "" if given.audio is None else given.audio.removeprefix(f"{AUDIO}/"),
            }
