"""The workers that come along, up to where the official code is needed: arguments, files, imports.

The official checkouts and their weights are not here. Stand-ins with the official signatures take their place, to see
that the workers call them as they want to be called.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.codecs.makers import WORKERS as TOYS
from wavalign.errors import PluginError
from wavalign.plugins.codecs.workers import WORKERS
from wavalign.plugins.speech.worker_process import WorkerOptions, WorkerProcess

GLM_FILES = ("config.yaml", "flow.pt", "hift.pt")
KIMI_FILES = ("audio_detokenizer/config.yaml", "audio_detokenizer/model.pt", "vocoder/config.json", "vocoder/model.pt")
TORCH = """
import contextlib
float32 = None
class Tensor(list):
    @property
    def shape(self): return (len(self), len(self[0]))
    def float(self): return self
    cpu = flatten = float
    def clamp(self, low, high): return Tensor(min(max(x, low), high) for x in self)
    def tolist(self): return list(self)
def tensor(values, device=None): return Tensor(values)
def cat(parts): return Tensor(x for part in parts for x in part)
seeds = []
def manual_seed(seed): seeds.append(seed)
inference_mode = contextlib.nullcontext
class cuda:
    available = True
    is_available = staticmethod(lambda: cuda.available)
    set_device = staticmethod(lambda number: seeds.append(("device", number)))
"""
GLM = """
import torch
class AudioDecoder:
    def __init__(self, config_path, flow_ckpt_path, hift_ckpt_path, device="cuda"):
        print("loading", config_path, flow_ckpt_path, hift_ckpt_path, device)
    def token2wav(self, token, uuid, prompt_token=None, prompt_feat=None, embedding=None, finalize=False{steps}):
        assert finalize and isinstance(uuid, str) and torch.seeds[-1] == 5
        return torch.Tensor([token[0][0] / 100, float(token.shape[1]), {value}]), "mel"
"""
KIMI = """
import torch
class Detokenizer:
    calls = []
    def clear_states(self): self.calls.clear()
    def detokenize_streaming(
        self, semantic_token, ode_step=30, verbose=False, ode_solver="", is_final=False, upsample_factor=1
    ):
        self.calls.append(is_final)
        assert upsample_factor == 4 and ode_step == 7
        assert torch.seeds[0] == ("device", 1) and torch.seeds[-1] == 0
        return torch.Tensor([len(semantic_token[0]) / 100, float(is_final), len(self.calls) / 100])
def get_audio_detokenizer(model_path):
    print("loading", model_path)
    return Detokenizer()
"""


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def start(worker: str, *arguments: object, environment: Path | None = None) -> WorkerProcess:
    """Run a worker; `environment` holds the packages of the interpreter it is run with."""
    python = None
    if environment is not None:
        python = environment / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{environment}" exec {sys.executable} -S "$@"\n')
        python.chmod(0o755)
    options = WorkerOptions(python=None if python is None else str(python), arguments=tuple(map(str, arguments)))
    return WorkerProcess(str(WORKERS[worker]), options)


@pytest.mark.parametrize("worker", sorted(WORKERS))
def test_they_explain_themselves(worker: str) -> None:
    side = Path(__file__).parents[3] / "wavalign/plugins/speech/worker_side"
    found = subprocess.run(
        [sys.executable, "-S", WORKERS[worker], "--help"], capture_output=True, text=True, env={"PYTHONPATH": str(side)}
    )
    assert found.returncode == 0
    assert "official" in found.stdout and "--checkout" in found.stdout


def test_run_by_hand_a_worker_shows_that_it_loads() -> None:
    side, tones = Path(__file__).parents[3] / "wavalign/plugins/speech/worker_side", TOYS / "tones.py"
    found = subprocess.run(
        [sys.executable, tones, "8000", "160", "9", "0"], capture_output=True, text=True, env={"PYTHONPATH": str(side)}
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert "codebook_sizes=(9,)" in found.stdout


def test_glm4voice_names_what_is_missing(tmp_path: Path) -> None:
    checkout, weights = files(tmp_path / "src", "torch.py"), files(tmp_path / "weights", "config.yaml", "flow.pt")
    with pytest.raises(PluginError, match="required: --checkout, --decoder"):
        start("glm4voice")
    with pytest.raises(PluginError, match=r"holds no flow_inference\.py: it is not a checkout of GLM-4-Voice"):
        start("glm4voice", "--checkout", checkout, "--decoder", weights)
    (checkout / "flow_inference.py").write_text("import hyperpyyaml_that_is_nowhere")
    with pytest.raises(PluginError, match=r"lacks hift\.pt"):
        start("glm4voice", "--checkout", checkout, "--decoder", weights)
    files(weights, "hift.pt")
    with pytest.raises(PluginError, match="No module named 'hyperpyyaml_that_is_nowhere'") as caught:
        start("glm4voice", "--checkout", checkout, "--decoder", weights, environment=tmp_path)
    assert "requirements of GLM-4-Voice" in caught.value.message


@pytest.mark.parametrize("steps", [None, 10])
def test_glm4voice_calls_the_official_decoder(tmp_path: Path, steps: int | None) -> None:
    checkout, weights = files(tmp_path / "src", "torch.py"), files(tmp_path / "weights", *GLM_FILES)
    (checkout / "torch.py").write_text(TORCH)
    text = GLM.replace("{steps}", "" if steps is None else ", option_steps=1")
    (checkout / "flow_inference.py").write_text(
        text.replace("{value}", "-7.0" if steps is None else "option_steps / 20")
    )
    more = () if steps is None else ("--steps", steps)
    environment = tmp_path / "env"
    environment.mkdir()
    arguments = ("--checkout", checkout, "--decoder", weights, "--seed", 5, *more)
    worker = start("glm4voice", *arguments, environment=environment)
    assert worker.contract.codebook_sizes == (16_384,) and not worker.contract.encodes
    for _ in range(2):
        found = worker.decode([30, 16_383])
        assert found.sample_rate == 22_050
        # The first code, how many codes there are (clipped to 1), and a value below -1 or the steps.
        assert found.samples.tolist() == pytest.approx([0.3, 1.0, -1.0 if steps is None else 0.5])


def test_kimi_names_what_is_missing(tmp_path: Path) -> None:
    checkout, weights = files(tmp_path / "src", "torch.py"), files(tmp_path / "model", *KIMI_FILES[:2])
    with pytest.raises(PluginError, match="required: --checkout, --model"):
        start("kimi")
    with pytest.raises(PluginError, match="holds no kimia_infer: it is not a checkout of Kimi-Audio"):
        start("kimi", "--checkout", checkout, "--model", weights)
    files(checkout, "kimia_infer/__init__.py")
    with pytest.raises(PluginError, match=r"lacks vocoder/config\.json, vocoder/model\.pt"):
        start("kimi", "--checkout", checkout, "--model", weights)
    files(weights, *KIMI_FILES)
    with pytest.raises(PluginError, match=r"No module named 'kimia_infer\.models'"):
        start("kimi", "--checkout", checkout, "--model", weights, environment=tmp_path)


def test_kimi_calls_the_official_detokenizer(tmp_path: Path) -> None:
    checkout, weights = tmp_path / "src", files(tmp_path / "model", *KIMI_FILES)
    files(checkout, "kimia_infer/__init__.py", "kimia_infer/models/__init__.py")
    (checkout / "torch.py").write_text(TORCH)
    (checkout / "kimia_infer/models/detokenizer.py").write_text(KIMI)
    arguments = ("--checkout", checkout, "--model", weights, "--device", 1, "--steps", 7)
    environment = tmp_path / "env"
    environment.mkdir()
    worker = start("kimi", *arguments, environment=environment)
    # Chunks of 30: 30, 30 and 5 codes; the last is final. Each decoding begins anew.
    expected = [0.3, 0.0, 0.01, 0.3, 0.0, 0.02, 0.05, 1.0, 0.03]
    for _ in range(2):
        found = worker.decode(list(range(65)))
        assert found.sample_rate == 24_000 and found.samples.tolist() == pytest.approx(expected)
    assert worker.decode(list(range(30))).samples.tolist() == pytest.approx([0.3, 1.0, 0.01])
    (checkout / "torch.py").write_text(TORCH.replace("available = True", "available = False"))
    with pytest.raises(PluginError, match="runs on a GPU alone"):
        start("kimi", *arguments, environment=environment)
