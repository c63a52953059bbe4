"""Who can give what: every operator that a stage could have, from which the resolver takes those that are needed.

A new capability is a candidate here and a function in `step/operators.py`. What a loss names in `needs` is the name of
a value: a column of rows, or a scalar output of the scored policy.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, final

from wavalign.engine.compile.plan import Operator, Scope, TermPlan
from wavalign.engine.compile.resampled import DRAWN, as_drawn
from wavalign.engine.compile.says import AdvantageSays, GateSays, RewardNeeds
from wavalign.plugins.api import text_is_enough

ANSWERS, ROWS, TOKENS, SCALAR = "[P, G]", "[N]", "[B, S, T]", "[]"
ROLLOUTS = "rollouts"
"""The family of rows that the policy samples."""
DEMONSTRATIONS = "demonstrations"
"""The family of rows under the heading `data.demonstrations`; others have the names that `data.families` gives them."""
ScalarUnit = Literal["token", "sequence"]
SCALARS: Mapping[str, ScalarUnit] = {"values": "token", "row_values": "sequence"}
"""Scalar outputs that any policy could have: one at every position, or one a row."""
DATA = "data"
"""Stands for every family of rows that comes from data."""
POINTS: Mapping[str, str] = {"reference_point": SCALAR, "mean_reference_point": SCALAR}
"""The mean log-ratio of policy and reference on mismatched answers, at least 0: by sums over tokens, and by means."""
PROMPT_GATES = "prompt_gates"
"""The column of rows, and the value, that is each prompt's own value of the gate."""
Place = Literal["device", "threads", "host"]
CountsAs = Literal["rollout", "reward", "learn"]
Found = Collection[str]
"""Names of the operators that are in a graph."""


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """An operator that a stage could have."""

    operator: Operator
    asker: str = ""
    """Who would need what it gives, in words: said where nobody does."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """By column, why it is left out where no term needs it; `no term needs it` unless it says more."""
    follows: bool = False
    """Whether it is wanted wherever all that it needs is there, though no loss asks for it."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of what it gives, columns that a loss may need, with the family whose rows have them; empty for all families,
    `DATA` for those that come from data."""
    describe: Callable[[Found], str] | None = None
    """Its detail, where that hangs on what else is in the graph."""


@final
@dataclass(frozen=True, slots=True)
class StageParts:
    """What a stage's components say about themselves: all that its operators are made of."""

    terms: Sequence[TermPlan] = ()
    """Those that can move a weight."""
    details: Mapping[str, str] = field(default_factory=dict)
    """By term, what a reader of the plan should know of it."""
    wants_sound: Mapping[str, bool] = field(default_factory=dict)
    """By term on rollouts, whether its mask may look at more than text."""
    rewards: Mapping[str, RewardNeeds] = field(default_factory=dict)
    advantage: AdvantageSays = field(default_factory=AdvantageSays)
    gate: GateSays | None = None
    """The gate that some share follows."""
    families: Sequence[str] = ()
    """Of rows that come from data."""
    adapter: bool = False
    own_network: bool = True
    """Whether answers are sampled by the weights that learn from them, so that their log-probs serve as old ones."""
    mini_batches: int = 1
    epochs: int = 1
    ahead: bool = False
    """Whether the next step's prompts are answered while rewards score."""
    dropout: bool = False
    """Whether the pass that learns drops anything."""
    resample: int = 0
    """Rounds in which groups without spread are replaced at most; 0 where they stay."""

    def reasons_for_sound(self, found: Found) -> list[str]:
        """Who needs more of an answer than its text."""
        rewards = [f"reward.{name}" for name, each in self.rewards.items() if not text_is_enough(each.needs)]
        terms = [f"term.{name}" for name, wants in self.wants_sound.items() if wants]
        return [name for name in (*rewards, *terms) if name in found]


def candidates(parts: StageParts) -> list[Candidate]:
    """Every operator the stage could have, in the order in which a reader expects them."""
    return [each for group in GIVERS for each in group(parts)]


def scalar_outputs(terms: Sequence[TermPlan]) -> dict[str, ScalarUnit]:
    """Scalar outputs that the policy of these terms could have, their losses' own ones among them."""
    return {**SCALARS, **{name: unit for term in terms for name, unit in term.scalars.items()}}


def follows_prompts(term: TermPlan) -> bool:
    """Whether its rows answer prompts and its share moves: by each prompt's own value, where the gate has one."""
    return term.family == ROLLOUTS and term.share.moves


def judged(term: TermPlan) -> list[str]:
    """Scalar outputs that a term reads."""
    return [name for name in term.needs if name in {**SCALARS, **term.scalars}]


def known_columns() -> dict[str, str]:
    """What a loss may need beside log-probs, with the family whose rows have it; empty for all families, or `DATA`."""
    nobody = StageParts(own_network=False, advantage=AdvantageSays(unit="token"))
    return {name: family for each in candidates(nobody) for name, family in each.columns.items()}


def _drawn(parts: StageParts) -> Iterator[Candidate]:
    """Answers and what they are worth: as they are drawn, or once those that teach nothing are replaced."""
    drawn = [*_rollouts(parts), *_rewards(parts)]
    if not parts.resample:
        yield from drawn
        return
    old = "old_logprobs" if parts.own_network else "behaviour_logprobs"
    renamed = {"rollouts": ANSWERS, old: TOKENS, "scores": ANSWERS}
    if any("waveform" in each.needs for each in parts.rewards.values()):
        renamed["waveforms"] = ANSWERS
    names = {*renamed, "waveforms", "rewards"}
    yield from (replace(each, operator=as_drawn(each.operator, names), columns={}) for each in drawn)
    yield _one(
        "resample", "collect", "device", needs=tuple(f"{DRAWN}{name}" for name in renamed),
        gives={**renamed, "rewards": ANSWERS, "resampled": SCALAR}, counts_as="rollout",
        detail=f"groups without spread anew, {parts.resample} times at most",
        asker="no term and no gate looks at rollouts", columns={"old_logprobs": ROLLOUTS, "rewards": ROLLOUTS},
    )  # fmt: skip


def _rollouts(parts: StageParts) -> Iterator[Candidate]:
    nobody = "no term and no gate looks at rollouts"
    yield _one("prompts", "collect", "host", gives={"prompts": "[P]"}, counts_as="rollout", asker=nobody)
    old = "old_logprobs" if parts.own_network else "behaviour_logprobs"

    def detail(found: Found) -> str:
        reasons = parts.reasons_for_sound(found)
        return f"whole answers, for {', '.join(reasons)}" if reasons else "stops when no text can follow"

    yield _one(
        "rollout", "collect", "device", needs=("prompts",), gives={"rollouts": ANSWERS, old: TOKENS},
        counts_as="rollout", asker=nobody, columns={"old_logprobs": ROLLOUTS}, describe=detail,
    )  # fmt: skip
    # In a thread of its own: what needs no sound goes on meanwhile.
    yield _one(
        "decode_audio", "collect", "threads", needs=("rollouts",), gives={"waveforms": ANSWERS}, counts_as="reward",
        asker="no reward in use listens, so nothing is vocoded",
    )  # fmt: skip


def _rewards(parts: StageParts) -> Iterator[Candidate]:
    why = "no term needs advantages and no gate reads rewards"
    for name, each in parts.rewards.items():
        heard = "waveforms" if "waveform" in each.needs else "rollouts"
        yield _one(
            "reward", "collect", "threads", of=name, needs=(heard,), gives={f"reward.{name}": ANSWERS},
            counts_as="reward", detail=each.type, asker=why,
        )  # fmt: skip
    scores = tuple(f"reward.{name}" for name in parts.rewards)
    # Without rewards nobody gives these; the checks say so where a term needs them.
    yield _one(
        "aggregate", "collect", "host", needs=("rollouts", *scores), gives={"rewards": ANSWERS, "scores": ANSWERS},
        counts_as="reward", asker=why, columns={"rewards": ROLLOUTS},
    )  # fmt: skip


def _learned_from(parts: StageParts) -> Iterator[Candidate]:
    yield from _token_level(parts) if parts.advantage.unit == "token" else _answer_level()
    if parts.gate is not None:
        yield from _gate(parts.gate)


def _gate(says: GateSays) -> Iterator[Candidate]:
    if says.needs_noise:
        detail = "variance of the rewards' own errors, as far as they state it"
        yield _one(
            "reward_noise", "collect", "host", needs=("scores",), gives={"reward_noise": ANSWERS}, counts_as="reward",
            detail=detail,
        )  # fmt: skip
    gives = {"gate": SCALAR, PROMPT_GATES: "[P]"} if says.per_prompt else {"gate": SCALAR}
    yield _one("gate", "collect", "host", needs=says.needs, gives=gives, counts_as="reward", detail=says.type)


def _answer_level() -> Iterator[Candidate]:
    yield _one(
        "advantage",
        "collect",
        "host",
        needs=("rewards", "scores"),
        gives={"advantages": ANSWERS},
        counts_as="reward",
        asker="no term needs advantages",
        columns={"advantages": ROLLOUTS},
    )


def _token_level(parts: StageParts) -> Iterator[Candidate]:
    says, why = parts.advantage, "no term needs advantages or returns"
    yield _one(
        "token_rewards", "collect", "host", needs=("rollouts", "scores"), gives={"token_rewards": TOKENS},
        counts_as="reward", asker=why,
    )  # fmt: skip
    needs = ("rollouts", "scores", "token_rewards", "scored_batches", *sorted(says.needs | says.columns))
    gives = {"advantages": TOKENS, "returns": TOKENS, "advantage_metrics": SCALAR}
    yield _one(
        "token_advantage", "collect", "host", needs=needs, gives=gives, counts_as="reward", detail=says.type, asker=why,
        columns={"advantages": ROLLOUTS, "returns": ROLLOUTS},
    )  # fmt: skip


def _rows(parts: StageParts) -> Iterator[Candidate]:
    yield _one(
        "answer_rows",
        "collect",
        "host",
        of=ROLLOUTS,
        needs=("rollouts",),
        gives={f"rows.{ROLLOUTS}": ROWS},
        asker="no term learns from rollouts",
    )
    for family in parts.families:
        yield _one(
            "data_rows",
            "collect",
            "host",
            of=family,
            gives={f"rows.{family}": ROWS, f"drawn.{family}": "[D]"},
            asker=f"no term looks at {family}",
        )
    used = {term.family for term in parts.terms}
    needs = tuple(f"rows.{family}" for family in (ROLLOUTS, *parts.families) if family in used)
    yield _one("rows", "collect", "host", needs=needs, gives={"rows": ROWS})
    if not parts.terms or any("target_scores" in term.needs for term in parts.terms):
        gives, columns = {"target_scores": ROWS}, {"target_scores": DATA}
        yield _one("target_scores", "collect", "host", needs=("rows",), gives=gives, columns=columns)


def _references(parts: StageParts) -> Iterator[Candidate]:
    scored = "nothing is scored before the updates"
    yield _one("scored_batches", "collect", "host", needs=("rows",), gives={"scored_batches": ROWS}, asker=scored)
    referring = {term.family for term in parts.terms if "ref_logprobs" in term.needs}
    answers = ("scored_batches",) if ROLLOUTS in referring or "ref_logprobs" in _shown_columns(parts) else ()
    once = "rows of data once each, kept in the cache folder" if referring - {ROLLOUTS} else ""
    detail = "; ".join(each for each in ("the policy with its adapter off" if parts.adapter else "", once) if each)
    yield _one(
        "reference", "collect", "device", needs=("rows", *answers), gives={"ref_logprobs": TOKENS}, detail=detail,
        asker="no term needs ref_logprobs, so no second model is loaded", columns={"ref_logprobs": ""},
    )  # fmt: skip
    yield from _old_values(parts)
    yield from _reference_points(parts)
    if not parts.own_network:
        yield _one(
            "recompute", "collect", "device", needs=("scored_batches", "behaviour_logprobs"),
            gives={"old_logprobs": TOKENS, "importance": TOKENS, "mismatch": SCALAR},
            columns={"old_logprobs": ROLLOUTS, "importance": ROLLOUTS}, detail="answers come from other weights",
        )  # fmt: skip


def _old_values(parts: StageParts) -> Iterator[Candidate]:
    """What a critic expected before the updates, where there is one to ask."""
    asked = "old_values" in parts.advantage.needs or any("old_values" in term.needs for term in parts.terms)
    if parts.terms and not asked:
        return
    yield _one(
        "old_values", "collect", "device", needs=("scored_batches",), gives={"old_values": TOKENS},
        asker="nobody needs values under the weights that sampled", columns={"old_values": ROLLOUTS},
    )  # fmt: skip


def _shown_columns(parts: StageParts) -> frozenset[str]:
    """Columns that are in the metrics because the advantage needs them."""
    learns = any({"advantages", "returns"} & set(term.needs) for term in parts.terms)
    return parts.advantage.columns if learns else frozenset()


def _reference_points(parts: StageParts) -> Iterator[Candidate]:
    """What policy and reference say of answers to other questions, for losses that compare answers with it."""
    families = sorted({term.family for term in parts.terms if set(term.needs) & POINTS.keys()})
    if parts.terms and not families:
        return
    for family in families:
        yield _one(
            "mismatched_rows", "collect", "host", of=family, needs=(f"drawn.{family}",),
            gives={f"mismatched.{family}": ROWS}, detail="every question with the answers to the next one",
        )  # fmt: skip
    rows = tuple(f"mismatched.{family}" for family in families)
    yield _one("mismatched_reference", "collect", "device", needs=rows, gives={"mismatched_ref_logprobs": TOKENS})
    yield _one(
        "reference_point", "update", "device", needs=("updates", *rows, "mismatched_ref_logprobs"), gives=POINTS,
        columns=dict.fromkeys(POINTS, DATA), detail="a forward without gradient of its own",
    )  # fmt: skip


def _updates(parts: StageParts) -> Iterator[Candidate]:
    detail = f"{parts.epochs} x {parts.mini_batches} mini-batches" if parts.epochs * parts.mini_batches > 1 else ""
    yield _one("updates", "collect", "host", needs=("rows",), gives={"updates": "[U]"}, detail=detail)
    needs = {need for term in parts.terms for need in term.needs}
    columns = sorted(needs - set(scalar_outputs(parts.terms)) | _shown_columns(parts))
    if "old_logprobs" in columns and not parts.own_network:
        columns.append("importance")
    if parts.gate is not None and parts.gate.per_prompt and any(follows_prompts(term) for term in parts.terms):
        columns.append(PROMPT_GATES)
    yield _one("micro_batches", "update", "host", needs=("updates", *columns), gives={"micro_batches": "[M]"})
    yield _one("denominators", "update", "host", needs=("micro_batches",), gives={"denominators": "[terms, 3]"})


def _learning(parts: StageParts) -> Iterator[Candidate]:
    families = sorted({term.family for term in parts.terms})
    shared = f"one forward for {' and '.join(families)}; " if len(families) > 1 else ""
    outputs = scalar_outputs(parts.terms)
    gives = {"logprobs": TOKENS} | {name: "[B, T]" if unit == "token" else "[B]" for name, unit in outputs.items()}
    forward = _one(
        "forward", "micro_batch", "device", needs=("micro_batches",), gives=gives, columns=dict.fromkeys(SCALARS, ""),
        detail=f"{shared}only positions some term weighs",
    )  # fmt: skip
    yield replace(forward, unread={"values": "no term needs values, so there is no critic"})
    for term in parts.terms:
        scalars = tuple(need for need in term.needs if need in outputs)
        yield _one(
            "term", "micro_batch", "device", of=term.name,
            needs=("micro_batches", "denominators", "logprobs", *scalars),
            gives={f"term.{term.name}": SCALAR, f"tally.{term.name}": SCALAR}, detail=parts.details[term.name],
        )  # fmt: skip
    values = tuple(f"term.{term.name}" for term in parts.terms)
    shares = ("gate",) if parts.gate is not None else ()
    yield _one(
        "objective", "micro_batch", "device", needs=(*values, *shares), gives={"loss": SCALAR, "loss_value": SCALAR}
    )
    yield _one("backward", "micro_batch", "device", needs=("loss",), gives={"gradients": "parameters"})
    tallies = tuple(f"tally.{term.name}" for term in parts.terms)
    yield _one(
        "totals",
        "update",
        "host",
        needs=(*tallies, "loss_value", "denominators"),
        gives={"totals": SCALAR},
        detail="one wait for the device",
    )
    yield _one("update", "update", "device", needs=("gradients", "totals"), gives={"updated": SCALAR})


def _logging(_parts: StageParts) -> Iterator[Candidate]:
    yield _one(
        "kl_to_reference",
        "micro_batch",
        "device",
        needs=("micro_batches", "logprobs", "ref_logprobs"),
        gives={"kl": SCALAR},
        follows=True,
    )
    yield _one(
        "first_ratio",
        "micro_batch",
        "device",
        needs=("micro_batches", "logprobs", "old_logprobs"),
        gives={"ratio": SCALAR},
        follows=True,
    )


GIVERS: list[Callable[[StageParts], Iterator[Candidate]]] = [
    _drawn, _learned_from, _rows, _references, _updates, _learning, _logging,
]  # fmt: skip
"""All that gives something."""


def metrics(reported: Sequence[str]) -> Operator:
    """The operator that makes a step's line of metrics of the values that say something."""
    return _one("metrics", "collect", "host", needs=tuple(reported), gives={"result": SCALAR}).operator


def _one(
    function: str, scope: Scope, place: Place, *, of: str = "", needs: tuple[str, ...] = (),
    gives: Mapping[str, str], counts_as: CountsAs = "learn", detail: str = "", asker: str = "", follows: bool = False,
    columns: Mapping[str, str] | None = None, describe: Callable[[Found], str] | None = None,
) -> Candidate:  # fmt: skip
    name = next(iter(gives)) if of and function != "term" else f"{function}.{of}" if of else function
    operator = Operator(
        name=name, function=function, of=of, needs=needs, gives=gives, scope=scope, place=place, counts_as=counts_as,
        detail=detail,
    )  # fmt: skip
    return Candidate(operator, asker, follows=follows, columns=columns or {}, describe=describe)
