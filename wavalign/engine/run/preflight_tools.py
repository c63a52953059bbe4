"""What preflight needs constructed, by the builder."""

from collections.abc import Mapping, Sequence
from typing import final

from wavalign.engine.compile.plan import StagePlan, TermPlan
from wavalign.engine.feeding.feeds import CodeCache, Encoder
from wavalign.engine.feeding.record_check import RecordsLook
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.demands import headings, look_at_records, missing_files
from wavalign.engine.step.rollouts import check_codes
from wavalign.plugins.api import Architecture, Mask
from wavalign.plugins.batch import Dialogue, TokenSequence
from wavalign.schema.component import WeightedComponent
from wavalign.storage.cache import cache_folder
from wavalign.storage.checkpoints import read_headers
from wavalign.storage.tensors import StoredTensor


@final
class PreflightTools:
    """Builds single pieces of a plan, never a backend."""

    def __init__(self, builder: Builder, *, every_record: bool = True) -> None:
        """`every_record` looks at all the data and not at its head alone."""
        self.builder, self._every_record = builder, every_record

    def architecture(self, stage: StagePlan) -> Architecture:
        """The stage's architecture over what its recipe names; of a remote checkpoint only the small files."""
        return self.builder.architecture(stage, None, want="layout")

    def tensors(self, stage: StagePlan) -> Mapping[str, StoredTensor] | None:
        """Name, shape and type of every tensor of the stage's checkpoint; None where only fetching would tell."""
        model = stage.stage.model
        assert model.checkpoint is not None
        return read_headers(model.checkpoint, pickles=model.allow_pickles)

    def head(self, sources: Sequence[WeightedComponent], count: int) -> tuple[list[Dialogue], int | None]:
        """Dialogues spread over a heading (of a stream the first), and how many it has; None for a stream."""
        feed = self.builder.feed(sources, 0)
        return feed.all(count), feed.size

    def encoder(self, stage: StagePlan, architecture: Architecture) -> Encoder:
        """What turns the stage's dialogues into tokens."""
        codec = self.builder.codec(stage, None)
        check_codes(architecture.tokens, codec)
        self.builder.nar(stage, architecture, codec)  # that it fits is seen before the run, not at its first sound
        return Encoder(architecture, None if codec is None else CodeCache(codec, cache_folder() / "codes.sqlite"))

    def rows(
        self, stage: StagePlan, architecture: Architecture, dialogues: Sequence[Dialogue]
    ) -> list[tuple[TokenSequence, TokenSequence | None]]:
        """Prompt and target of each dialogue; of one with several targets a row each."""
        encoder = self.encoder(stage, architecture)
        singles = (single for each in dialogues for single in each.singles)
        return [(encoder.prompt(each), encoder.target(each) if each.target else None) for each in singles]

    def missing_files(self, stage: StagePlan) -> Sequence[tuple[str, str]]:
        """What options name and is not there."""
        return list(missing_files(self.builder, stage))

    def records(self, stage: StagePlan, heading: str, architecture: Architecture | None) -> RecordsLook | None:
        """All records of a heading, as the run itself looks at them."""
        if not self._every_record or heading not in headings(stage):
            return None
        return look_at_records(self.builder, stage, heading, architecture)

    def mask(self, term: TermPlan) -> Mask:
        """The term's mask."""
        return self.builder.plugin(Mask, term.mask)
