"""The reward model that a stage leaves: network, heads and its card, complete or absent as a folder."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wavalign.engine.models.reward_card import (
    CARD,
    HEADS,
    NETWORK,
    CodecIdentity,
    FacetCard,
    RewardCard,
    TokenIdentity,
)
from wavalign.engine.models.reward_network import FacetHead
from wavalign.engine.run.hand_over import leave_model
from wavalign.engine.run.pair_evaluation import Judged, PairEvaluator, measured
from wavalign.engine.state.files import fsync_folder, storage_errors, write_text
from wavalign.engine.step.stage import LiveStage

REWARD_MODEL = "reward_model"
"""Folder of a stage that holds what it learned."""
_CHUNK = 4 << 20


def leave_reward_model(live: LiveStage, evaluator: PairEvaluator, folder: Path, *, recipe: str, steps: int) -> None:
    """Write `folder` in place of what an interrupted run left; every rank calls it.

    The held-out pairs are judged once more, by the weights that are left; `steps` is after how many of them. Raises
    StorageError when the disk refuses; `folder` is then as it was.
    """
    first = live.world.is_first
    judged, heads = dict[str, Judged](), dict[str, Tensor]()
    with live.backend.full_parameters():
        if first:
            network = evaluator.network(live.backend.policy)
            judged = {split: evaluator.judge(network, split) for split in evaluator.splits}
            heads = {name: each.detach().cpu().clone() for name, each in live.backend.beside.items()}
    aside = folder.with_name(f".{folder.name}.writing")
    if first:
        with storage_errors(str(folder)):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
    leave_model(live, aside / NETWORK)
    if not first:
        return
    with storage_errors(str(folder)):
        save_file(heads, aside / HEADS)
        card = _card(live, evaluator.facets, judged, recipe=recipe, steps=steps, fingerprint=_sum(aside))
        write_text(aside / CARD, card.model_dump_json(indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        fsync_folder(folder.parent)


def _card(
    live: LiveStage, facets: list[FacetHead], judged: Mapping[str, Judged], *, recipe: str, steps: int, fingerprint: str
) -> RewardCard:
    model, sizes = live.plan.stage.model, live.settings.geometry
    masks = {term.plan.name: term.plan.mask for term in live.terms}
    return RewardCard(
        architecture=model.architecture,
        tokens=TokenIdentity.of(live.architecture),
        codec=CodecIdentity.of(model.codec, live.roller.codec),
        facets=tuple(_facet(each, masks, judged) for each in facets),
        fingerprint=fingerprint,
        stage=live.plan.name,
        recipe=recipe,
        seed=live.settings.seed,
        steps=steps,
        dialogues={each.name: steps * each.groups for each in sizes.families},
        held_out={split: measured(found) for split, found in judged.items()},
    )


def _facet(facet: FacetHead, masks: Mapping[str, object], judged: Mapping[str, Judged]) -> FacetCard:
    rewards = torch.cat([found[facet.name].flatten() for found in judged.values()])
    return FacetCard.model_validate(
        {
            "name": facet.name,
            "head": facet.head.name,
            "unit": facet.head.unit,
            "mask": masks[facet.name],
            "mean": float(rewards.mean()),
            "std": float(rewards.std()),
        }
    )


def _sum(folder: Path) -> str:
    """Sum of the weights in a folder: names and content of their files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]
