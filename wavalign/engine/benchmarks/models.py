"""The model that is to answer, loaded piece by piece."""

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import final

from wavalign.engine.backends.base import DTYPES, Placement, autocast
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.feeding.feeds import CodeCache, Encoder
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.choosing import Chosen
from wavalign.engine.state.distributed import World
from wavalign.engine.step.rollouts import Roller, check_codes
from wavalign.engine.step.sampling import check_streams
from wavalign.plugins.api import Policy, Sampler
from wavalign.storage.cache import cache_folder


@final
class OpenModel:
    """A chosen model, loaded piece by piece: what tells it apart first, its network when something is to be answered.

    Close it by `close`.
    """

    def __init__(self, chosen: Chosen, progress: Callable[[str, int, int], None]) -> None:
        self.chosen = chosen
        self.world = World.single(chosen.plan.device)
        self.builder = Builder(chosen.plan, self.world, progress)
        self._inside = ExitStack()
        stage, start = chosen.stage, chosen.start
        self.codec = self.builder.codec(stage, start)
        self.architecture = self.builder.architecture(stage, start)
        check_streams(stage.stage, self.architecture.tokens)
        check_codes(self.architecture.tokens, self.codec)
        cache = None if self.codec is None else CodeCache(self.codec, cache_folder() / "codes.sqlite")
        sampler = self.builder.plugin(Sampler, stage.stage.rollout.sampler, "rollout.sampler")
        nar = self.builder.nar(stage, self.architecture, self.codec)
        self.roller = Roller(self.architecture, Encoder(self.architecture, cache), sampler, self.codec, nar)

    @property
    def fingerprint(self) -> str:
        """Sum of the weights' files, or of how they are drawn."""
        if self.chosen.checkpoint is not None:
            files = sorted(self.chosen.checkpoint.files.items())
            return hashlib.sha256(json.dumps(files).encode()).hexdigest()
        return self.builder.starting_weights(self.chosen.stage, self.architecture).fingerprint()

    def policy(self) -> Policy:
        """The network, its weights whole on this machine's device."""
        plan, stage = self.chosen.plan, self.chosen.stage
        placement = Placement(self.world.device, dtype=DTYPES[plan.runtime.precision])
        with guarded_block(self.architecture, "building its network"):
            if stage.stage.model.adapter is None or self.chosen.checkpoint is None:
                policy = self.builder.starting_weights(stage, self.architecture).policy(placement)
            else:  # adapters stay beside what they adapt, which is held less precisely
                alone = stage.model_copy(update={"deepspeed": None})
                policy = self.builder.policy(alone, self.architecture)
                self._inside.enter_context(autocast(self.world.device, plan.runtime.precision))
        self.chosen.restore(policy, self.world)
        return policy

    def close(self) -> None:
        """Free the network."""
        self._inside.close()
