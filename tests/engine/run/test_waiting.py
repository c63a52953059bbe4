"""A run says what it is busy with, so that a display can name it when it lasts."""

from collections.abc import Mapping
from pathlib import Path

from tests.toy.compiled import compiled, put
from wavalign.engine import api
from wavalign.engine.run.observers import Display, RunInfo


class Busy(Display):
    """Keeps what is waited for, each time it changes."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, run: RunInfo) -> None:
        return

    def stage(self, name: str, steps: int) -> None:
        return

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        self.told.append("step")

    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None:
        self.told.append("evaluation")

    def message(self, text: str) -> None:
        return

    def progress(self, what: str, done: int, total: int) -> None:
        return

    def waiting(self, what: str, done: int, total: int) -> None:
        if what and self.told[-1:] != [what]:
            self.told.append(what)

    def finish(self, summary: str) -> None:
        return

    def close(self) -> None:
        return


def test_what_a_run_is_busy_with(tmp_path: Path) -> None:
    busy = Busy()
    api.run(compiled(tmp_path, put("steps", 1), put("runtime.report", True)), observer=busy)
    measured = ["heldout: sampling answers", "heldout: decoding the sound of answers", "heldout: metric accuracy"]
    assert {"building the model", "preparing data of type toy_sums"} <= set(busy.told[:3])
    first = busy.told.index("evaluation")
    assert busy.told[:first][-4:] == [*measured, "heldout, gold answers: metric accuracy"]
    step = busy.told[first : busy.told.index("step")]
    assert {"reading prompts", "reading dialogues to learn from", "sampling answers", "rewards"} <= set(step)
    assert "learning" in step
    assert busy.told[busy.told.index("step") :] == [
        "step",
        "writing a checkpoint",
        *measured,
        "evaluation",
        "writing the report",
    ]
