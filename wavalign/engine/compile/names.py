"""Names that a person gives and that would meet others in a run's files."""

from collections.abc import Iterable, Mapping
from typing import final

from wavalign.schema.marks import Path
from wavalign.schema.stage import Stage

TRAINING = "train"
"""The split of steps in metrics.jsonl and rollouts.jsonl; no held-out split may have its name."""
HEADS = frozenset({"loss", "share", "tokens", "gate", "reward", "kl", "dropped", "ratio", "mismatch"})
"""What names of a step's values begin with, as those of a term's values begin with its own."""


@final
class NameProblems:
    """Collects (path, message, hint)."""

    def __init__(self) -> None:
        self.found: list[tuple[Path, str, str]] = []

    def reserved(self, path: Path, name: str, why: str) -> None:
        """A name that is somebody else's."""
        self.found.append(((*path, name), f"`{name}` is a reserved name: {why}", "choose another name"))

    def alike(self, path: Path, names: Iterable[str], what: str) -> None:
        """Names that differ in capital letters alone."""
        seen: dict[str, str] = {}
        for name in names:
            first = seen.setdefault(name.casefold(), name)
            if first != name:
                message = f"the {what} `{name}` and `{first}` differ in capital letters alone"
                hint = "choose another name: a folder, a file or a reader may not tell the two apart"
                self.found.append(((*path, name), message, hint))


def name_problems(stage: Stage) -> list[tuple[Path, str, str]]:
    """Path, message and hint of every name of a stage that cannot be had."""
    found, objective = NameProblems(), stage.objective
    terms: Mapping[str, object] = objective.terms if objective is not None else {}
    for name in stage.data.evaluation:
        if name.casefold() == TRAINING:
            found.reserved(("data", "evaluation"), name, "the lines of training steps have it in metrics.jsonl")
    for name in terms:
        if name.casefold() in HEADS:
            found.reserved(("objective", "terms"), name, f"values of a step are logged as `{name.casefold()}/...`")
    for path, names, what in (
        (("data", "evaluation"), stage.data.evaluation, "splits"),
        (("rewards",), stage.rewards, "rewards"),
        (("objective", "terms"), terms, "terms"),
        (("evaluation", "metrics"), stage.evaluation.metrics, "metrics"),
    ):
        found.alike(path, names, what)
    return found.found
