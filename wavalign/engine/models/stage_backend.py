"""Where a stage's network is put while it is made, and the backend that trains it."""

from wavalign.engine.backends.base import DTYPES, AdamSettings, Backend, Placement
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.models.reference import Scorer
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.state.distributed import World
from wavalign.plugins.api import Architecture, Policy


def stage_placement(plan: Plan, stage: StagePlan, world: World) -> Placement:
    """Device and precision of the starting weights, and whether ranks hold parts of them."""
    parted = stage.deepspeed is not None and stage.deepspeed["zero_optimization"]["stage"] == 3
    if stage.stage.model.adapter is not None and not parted:
        return Placement(world.device, dtype=DTYPES[plan.runtime.precision])  # what is frozen is held as it stays
    if stage.deepspeed is None:
        return Placement(world.device)
    # As below: its import takes seconds.
    from wavalign.engine.backends.partitioned import placement

    return placement(stage.deepspeed, world)


def stage_backend(
    plan: Plan,
    stage: StagePlan,
    policy: Policy,
    *,
    architecture: Architecture,
    world: World,
    critic: Policy | None = None,
) -> Backend:
    """What runs the forward, the backward and the update of `policy` and of the stage's scalar heads.

    The heads read `critic`, which is trained with them, or else `policy`.
    """
    hidden_size = architecture.dimensions().hidden if stage.scalars else None
    scored = ScoredPolicy(policy, architecture.tokens, stage.scalars, hidden_size=hidden_size, critic=critic)
    runtime = plan.runtime
    if stage.deepspeed is None:
        optim = stage.stage.optim
        settings = AdamSettings(optim.betas, optim.epsilon, optim.weight_decay, optim.max_grad_norm)
        return PlainBackend(scored, policy=policy, optimizer=settings, precision=runtime.precision, ranks=world)
    # DeepSpeed takes seconds to import and is not wanted by every run.
    from wavalign.engine.backends.deepspeed import DeepSpeedBackend

    heads = scored.head_parameters()
    return DeepSpeedBackend(scored, policy=policy, heads=heads, config=stage.deepspeed, ranks=world)


def divided_scorer(stage: StagePlan, policy: Policy, *, architecture: Architecture, world: World) -> Scorer:
    """What scores with a frozen `policy` whose weights were placed in parts."""
    assert stage.deepspeed is not None
    # As above.
    from wavalign.engine.backends.partitioned import PartitionedScorer

    scored = ScoredPolicy(policy.requires_grad_(False).eval(), architecture.tokens)
    return PartitionedScorer(scored, heads=scored.head_parameters(), config=stage.deepspeed, ranks=world)
