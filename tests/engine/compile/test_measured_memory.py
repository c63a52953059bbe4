"""The estimate against what a process really takes, where the vocabulary is most of the model."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from tests.plugins.architectures.vita_helpers import small_vita
from tests.toy.compiled import compiled, only_stage, put
from wavalign.engine.backends.base import AdamSettings
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile.adapter import count_weights
from wavalign.engine.compile.memory import estimate_memory
from wavalign.engine.compile.plan import Cluster, Geometry
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.state.distributed import World
from wavalign.plugins.architectures.vita import VitaAudio
from wavalign.plugins.batch import Role, TokenBatch
from wavalign.schema.component import Component
from wavalign.schema.model import ModelSection
from wavalign.schema.runtime import RuntimeSection

ROWS, TOKENS = 2, 48


def model(folder: Path) -> VitaAudio:
    """112 M parameters, 77 M of them an embedding of 150,000 codes that is the head too."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_layers": 9}
    return small_vita(folder, num_codes=150_000, tie_embeddings=True, **sizes)


def resident() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def train() -> int:
    """Bytes that two steps of two micro-batches take at their fullest, beside what was there before."""
    with tempfile.TemporaryDirectory() as folder:
        architecture = model(Path(folder))
    before = resident()
    policy = architecture.build_policy(seed=0)
    backend = PlainBackend(
        ScoredPolicy(policy, architecture.tokens),
        policy=policy,
        optimizer=AdamSettings((0.9, 0.95), 1e-8, 0.01, 1.0),
        precision="float32",
        ranks=World.single(),
    )
    for _ in range(2):
        backend.begin_update(2)
        for _ in range(2):
            ids = torch.randint(architecture.tokens.vocabulary_size, (ROWS, 1, TOKENS))
            roles = torch.full_like(ids, int(Role.TEXT), dtype=torch.int8)
            batch = TokenBatch(ids, roles, torch.zeros_like(roles), torch.full((ROWS,), TOKENS))
            select = torch.ones(ids.shape, dtype=torch.bool)
            select[:, :, 0] = False
            backend.backward(-backend.forward(batch, select, temperature=1.0).logprobs.mean())
        backend.step(1e-4)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def estimate(folder: Path) -> int:
    """Bytes said, without a reference and without sampling."""
    architecture = model(folder)
    plan = compiled(folder, put("objective", {"terms": {"sft": {"loss": "cross_entropy"}}}))
    cut = Geometry(
        processes=1,
        prompts=0,
        group_size=1,
        prompts_per_process=0,
        rows_per_process=4,
        micro_batch=ROWS,
        accumulation=2,
    )
    memory = estimate_memory(
        architecture.dimensions(),
        weights=count_weights(ModelSection(architecture=Component(type="vita")), architecture),
        stage=only_stage(plan).model_copy(update={"geometry": cut}),
        runtime=RuntimeSection.model_validate({"device": "cpu"}),
        row=(1, TOKENS),
        cluster=Cluster(cores=1, host_bytes=2**40),
    )
    return memory.total


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_what_a_process_takes_is_what_is_said(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    code = f"import json; from {__name__} import train; print(json.dumps(train()))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    measured, said = json.loads(done.stdout.splitlines()[-1]), estimate(tmp_path)
    assert said == pytest.approx(measured, rel=0.1), f"{said / 2**20:.0f} MiB said, {measured / 2**20:.0f} measured"
