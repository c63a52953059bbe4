"""How far a run has come, read off its folder."""

import json

from pydantic import ValidationError

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.state.checkpoint import CheckpointStore
from wavalign.engine.state.files import read_json
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import DataError, ResumeError

_PUT_BACK = "put the file back from a copy; what is in it cannot be made up again"


def planned(folder: RunFolder) -> Plan:
    """The plan in a run's folder; raises DataError when it is missing or is not what the run wrote."""
    try:
        return Plan.from_content(read_json(folder.plan))
    except ResumeError as error:
        raise DataError(error.message, hint=_PUT_BACK) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{folder.plan} is damaged: {place}: {first['msg']}", hint=_PUT_BACK) from error


def is_complete(folder: RunFolder, stage: StagePlan) -> bool:
    """Whether a stage left its model after all the steps that it has now; raises ResumeError for a damaged mark."""
    mark = folder.complete(stage.name)
    return mark.exists() and read_json(mark).get("planned") == stage.steps


def newest_checkpoint(folder: RunFolder) -> str:
    """The newest checkpoint's folder, empty where there is none."""
    step = _newest_step(folder)
    return str(folder.checkpoints / f"step-{step}") if step else ""


def lost_steps(folder: RunFolder) -> int:
    """Steps that are logged and in no checkpoint."""
    last = 0
    if folder.metrics.exists():
        with folder.metrics.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                    last = max(last, int(line["step"])) if line["split"] == "train" else last
                except (ValueError, KeyError, TypeError):
                    continue  # the line that was being written
    return max(0, last - _newest_step(folder))


def _newest_step(folder: RunFolder) -> int:
    return max(CheckpointStore(folder.checkpoints, keep=1).steps(), default=0)
