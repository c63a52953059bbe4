"""The estimate of a run's memory, kept in its folder for whoever looks at it beside what was measured."""

from pathlib import Path

from wavalign.engine.compile.cluster import detect_cluster
from wavalign.engine.compile.plan import Plan
from wavalign.engine.compile.preflight import preflight
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.observers import Silent
from wavalign.engine.run.preflight_tools import PreflightTools
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder


def keep_estimate(plan: Plan, folder: RunFolder) -> None:
    """Write `memory.json`: by stage, what a dry run on this machine says of one process, with the data read."""
    tools = PreflightTools(
        Builder(plan, World.single("cpu"), Silent().progress), every_record=False
    )  # the run has looked
    found = preflight(plan, tools, detect_cluster(), folder=str(Path(folder.path).absolute()))
    folder.write_json(folder.memory, {name: memory.model_dump(mode="json") for name, memory in found.memory})
