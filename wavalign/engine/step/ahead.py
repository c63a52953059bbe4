"""Answers that wait for their step: sampled while the rewards of the step before score, and kept by checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from wavalign.engine.feeding.feeds import Encoder, Feed
from wavalign.engine.state.distributed import World
from wavalign.engine.step.answers_as_bytes import packed, unpacked
from wavalign.errors import ResumeError
from wavalign.plugins.batch import Dialogue, RolloutGroup

FOLDER = "in_flight"
"""Within a checkpoint's."""
Kept = Callable[[], Sequence[bytes]]
"""Gives the file of every rank, in order; may be called at any later time."""


@final
class InFlight:
    """The next step's prompts on this rank with their answers, and the place in the data before they were drawn.

    It remembers for the feed of prompts: a checkpoint holds the place that a run that samples nothing ahead would have,
    and the prompts are drawn again from there.
    """

    def __init__(self, feed: Feed, encoder: Encoder, *, prompts: int, share: slice) -> None:
        """A step has `prompts` prompts on all ranks, of which `share` are this one's."""
        self._feed, self._encoder, self._count, self._share = feed, encoder, prompts, share
        self._cursor: Mapping[str, Any] | None = None
        self.prompts: Sequence[Dialogue] | None = None
        """Those of the step that comes next; None where none were drawn."""
        self._groups: Sequence[RolloutGroup] = ()
        self.published: int | None = None
        """The version of the weights that the provider was given last."""

    def draw(self) -> Sequence[Dialogue]:
        """Draw the prompts of the step after the present one."""
        self.prompts = self._draw_all()[self._share]
        return self.prompts

    def _draw_all(self) -> Sequence[Dialogue]:
        """The same on all ranks."""
        self._cursor = self._feed.state_dict()
        return self._feed.next(self._count)

    def hold(self, groups: Sequence[RolloutGroup]) -> None:
        """Keep the answers to what was drawn."""
        self._groups = groups

    def take(self) -> Sequence[RolloutGroup]:
        """The answers whose step has come."""
        groups, self._groups, self.prompts, self._cursor = self._groups, (), None, None
        return groups

    def state_dict(self) -> Mapping[str, Any]:
        """The cursor in the prompts, before those that are in flight."""
        return self._feed.state_dict() if self._cursor is None else self._cursor

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the cursor; what was in flight comes with `restore`."""
        self._feed.load_state_dict(state)

    def kept(self, world: World) -> Kept | None:
        """What is in flight on all ranks, for a checkpoint; None where nothing is. Every rank calls it."""
        groups = self._groups
        if self.prompts is None:
            return None
        if world.size == 1:
            return lambda: [packed(groups)]
        parts = world.to_first(packed(groups))
        found = [] if parts is None else [bytes(part) for part in parts]
        return lambda: found

    def restore(self, folder: Path, world: World) -> Kept | None:
        """Take in what a checkpoint in `folder` keeps, behind `load_state_dict`; gives what `kept` would give."""
        files = sorted((folder / FOLDER).glob("*.safetensors"))
        if not files:
            return None
        prompts = self._draw_all()
        self.prompts = prompts[self._share]
        if len(files) == world.size:
            parts = [path.read_bytes() for path in files] if world.is_first else []
            mine = parts[0] if world.is_first else files[world.rank].read_bytes()
            self._groups = unpacked(mine, self.prompts, self._encoder.prompt)
            return lambda: parts
        self._groups = self._shared_anew(files, prompts)[self._share]
        return self.kept(world)

    def _shared_anew(self, files: Sequence[Path], prompts: Sequence[Dialogue]) -> list[RolloutGroup]:
        """The answers to all prompts, of as many ranks as there are files."""
        each, left = divmod(len(prompts), len(files))
        if left:
            raise ResumeError(f"{files[0].parent} holds answers of {len(files)} processes to {len(prompts)} prompts")
        groups: list[RolloutGroup] = []
        for rank, path in enumerate(files):
            asked = prompts[rank * each : (rank + 1) * each]
            groups += unpacked(path.read_bytes(), asked, self._encoder.prompt)
        return groups


def write(folder: Path, parts: Sequence[bytes]) -> None:
    """Write what `kept` gave into a checkpoint's folder."""
    (folder / FOLDER).mkdir()
    for rank, part in enumerate(parts):
        (folder / FOLDER / f"rank-{rank:05d}.safetensors").write_bytes(part)
