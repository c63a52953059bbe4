"""Misbehaving plugins by kind, moment and fault: a run ends with exit 4 and says whose fault it is, where and when.

A sample of the matrix runs always; `make test-slow` runs it whole.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import Ended, here, lines
from tests.toy import misbehaving
from tests.toy.compiled import Change, put
from tests.toy.misbehaving import FAULTS
from tests.toy.world import PLUGINS, toy_recipe, write_recipe
from wavalign.engine.contracts.construct import construct
from wavalign.errors import PluginError
from wavalign.plugins.api import Codec, Nar
from wavalign.plugins.batch import Waveform
from wavalign.plugins.guard import origin_of

FILE = Path(misbehaving.__file__)
PLACES: dict[str, str] = {
    "loss": "objective.terms.sft.loss",
    "mask": "objective.terms.sft.tokens",
    "advantage": "objective.advantage",
    "gate": "objective.gate",
    "reward": "rewards.exact",
    "metric": "evaluation.metrics.accuracy",
    "sampler": "rollout.sampler",
    "data": "data.demonstrations",
    "architecture": "model.architecture",
    "tracker": "runtime.trackers",
}
MOMENTS: dict[str, tuple[str, ...]] = {
    "loss": ("constructor", "needs", "compute", "regularizers"),
    "mask": ("constructor", "weights"),
    "advantage": ("constructor", "compute"),
    "gate": ("constructor", "update", "state_dict"),
    "reward": ("constructor", "close"),
    "metric": ("constructor", "observe", "measure", "conclude", "close"),
    "sampler": ("constructor", "sample"),
    "data": ("constructor", "prepare", "len", "record", "stream", "shards", "open", "item"),
    "architecture": (
        "constructor",
        "build_policy",
        "empty_policy",
        "encode_prompt",
        "encode_target",
        "encode_answer",
        "decode_completion",
        "parameter_group",
        "hidden",
        "decode",
    ),
    "tracker": ("constructor",),
}
KIND_MOMENTS = [(kind, moment) for kind, moments in MOMENTS.items() for moment in moments]
MATRIX = [(kind, moment, fault) for kind, moment in KIND_MOMENTS for fault in FAULTS]
OF_A_STREAM = ("shards", "open", "item")
SAMPLE = [
    ("loss", "constructor", "exit"),
    ("loss", "compute", "odd"),
    ("mask", "weights", "interrupt"),
    ("advantage", "compute", "generator"),
    ("gate", "state_dict", "key"),
    ("reward", "constructor", "exit"),
    ("reward", "close", "unspeakable"),
    ("metric", "measure", "exit"),
    ("metric", "observe", "error"),
    ("metric", "conclude", "odd"),
    ("sampler", "sample", "deep"),
    ("data", "record", "interrupt"),
    ("data", "item", "stop"),
    ("architecture", "hidden", "error"),
    ("architecture", "decode", "exit"),
    ("tracker", "constructor", "empty"),
]


def ended(folder: Path, kind: str, moment: str, fault: str, *changes: Change, arguments: tuple[str, ...] = ()) -> Ended:
    """A toy run in which one plugin fails."""
    recipe = toy_recipe(folder)
    component: dict[str, Any] = {"type": f"bad_{kind}", "at": moment, "fault": fault}
    if kind == "data" and moment in OF_A_STREAM:
        component["streams"] = True
    if kind == "architecture":
        component = {**recipe["model"]["architecture"], **component}
    put("plugins", [str(PLUGINS), str(FILE)])(recipe)
    put("steps", 2)(recipe)
    put("batch", {"prompts": 2, "demonstrations": 2})(recipe)
    put("data.evaluation", {"type": "toy_sums", "limit": 2})(recipe)
    put("rollout.group_size", 2)(recipe)
    put(PLACES[kind], [component] if kind == "tracker" else component)(recipe)
    for change in changes:
        change(recipe)
    return here("run", write_recipe(folder, recipe), *arguments)


def check_fault(folder: Path, kind: str, moment: str, fault: str) -> None:
    found = ended(folder, kind, moment, fault)
    assert found.code == 4, found.output
    (message,) = [line for line in found.output.splitlines() if line.startswith("error: ")]
    assert f"{kind} 'bad_{kind}'" in message
    assert type(FAULTS[fault]()).__name__ in message or (fault, moment) == ("stop", "item")  # a generator's own
    place = re.search(rf"\({re.escape(str(FILE))}:\d+\)", message)
    assert place is not None, message
    assert "fault in WavAlign" not in found.output
    kept = re.search(r"the traceback is in (\S+)", found.output.replace("\n", " "))
    assert kept is not None, found.output
    written = Path(kept[1]).read_text(encoding="utf-8")
    assert f'"{FILE}", line' in written
    if (folder / "run" / "plan.json").exists():
        assert Path(kept[1]).parent == folder / "run"
    assert not (folder / "run" / "finished.json").exists()


@pytest.mark.parametrize(("kind", "moment", "fault"), SAMPLE)
def test_a_sample_of_faults(tmp_path: Path, kind: str, moment: str, fault: str) -> None:
    check_fault(tmp_path, kind, moment, fault)


def test_a_loss_that_runs_out_of_memory_is_named(tmp_path: Path) -> None:
    """A micro-batch of half the rows is tried first, as where the network runs out of it."""
    found = ended(tmp_path, "loss", "compute", "memory")
    assert found.code == 1, found.output
    assert "from here on micro-batches of stage train have at most" in found.output
    (message,) = [line for line in found.output.splitlines() if line.startswith("error: ")]
    assert re.search(rf"ran out in loss 'bad_loss' .*: compute raised MemoryError \({re.escape(str(FILE))}:", message)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "moment", "fault"), sorted({*MATRIX} - {*SAMPLE} - {("loss", "compute", "memory")}))
def test_every_fault(tmp_path: Path, kind: str, moment: str, fault: str) -> None:
    check_fault(tmp_path, kind, moment, fault)


def test_the_matrix_knows_every_kind() -> None:
    mine = [each for each in vars(misbehaving).values() if isinstance(each, type)]
    known = {vars(each)["type"] for each in mine if each.__module__ == misbehaving.__name__ and "type" in vars(each)}
    assert known == {f"bad_{kind}" for kind in (*MOMENTS, "codec", "nar")}


# --- kinds that have another way to fail ------------------------------------------------------------------------------


def check_tracker(folder: Path, moment: str, fault: str) -> None:
    """Switched off with one message; the run is complete."""
    found = ended(folder, "tracker", moment, fault)
    assert found.code == 0, found.output
    told = [line for line in found.output.splitlines() if "was switched off" in line]
    assert len(told) == 1, found.output
    assert "tracker 'bad_tracker'" in told[0]
    assert type(FAULTS[fault]()).__name__ in told[0]
    assert "the traceback is in" in told[0]
    assert (folder / "run" / "finished.json").exists()


@pytest.mark.parametrize(("moment", "fault"), [("log", "exit"), ("log", "empty"), ("close", "interrupt")])
def test_a_tracker_never_stops_a_run(tmp_path: Path, moment: str, fault: str) -> None:
    check_tracker(tmp_path, moment, fault)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["log", "close"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_tracker_never_stops_a_run_whatever_it_raises(tmp_path: Path, moment: str, fault: str) -> None:
    check_tracker(tmp_path, moment, fault)


def check_reward(folder: Path, fault: str) -> None:
    """Missing values with their reason, over the budget: exit 6 at once, no call waits out its time."""
    found = ended(folder, "reward", "score", fault, put("rewards.exact.timeout", 60))
    assert found.code == 6, found.output
    assert "4 of 4 calls of reward `exact` failed" in found.output
    assert type(FAULTS[fault]()).__name__ in found.output
    kept = re.search(r"the traceback of one is in (\S+?)[;\s]", found.output)
    assert kept is not None, found.output
    assert f'"{FILE}", line' in Path(kept[1]).read_text(encoding="utf-8")
    assert Path(kept[1]).parent == folder / "run"


@pytest.mark.parametrize("fault", ["interrupt", "unspeakable"])
def test_a_reward_that_raises_is_a_missing_value(tmp_path: Path, fault: str) -> None:
    check_reward(tmp_path, fault)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_reward_that_raises_is_a_missing_value_whatever_it_is(tmp_path: Path, fault: str) -> None:
    check_reward(tmp_path, fault)


@pytest.mark.parametrize(("kind", "moment"), [("loss", "needs"), ("mask", "constructor")])
def test_a_dry_run_says_it_too(tmp_path: Path, kind: str, moment: str) -> None:
    found = ended(tmp_path, kind, moment, "exit", arguments=("--dry-run",))
    assert found.code == 4, found.output
    assert f"{kind} 'bad_{kind}'" in found.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("moment", ["constructor", "encode", "decode", "can_decode", "fingerprint"])
def test_codecs(moment: str, fault: str) -> None:
    origin = origin_of(misbehaving.BadCodec, "codec", "bad_codec", "model.codec")

    def use() -> None:
        codec = construct(Codec, misbehaving.BadCodec, origin, {"at": moment, "fault": fault}, {})
        sound = codec.decode([1])
        codec.encode(Waveform(sound.samples, 16000))
        assert codec.can_decode
        codec.fingerprint()

    with pytest.raises(PluginError, match=r"codec 'bad_codec' \(model.codec\): ") as caught:
        use()
    assert f"({FILE}:" in caught.value.message


@pytest.mark.parametrize("moment", ["constructor", "complete"])
def test_nars(moment: str) -> None:
    origin = origin_of(misbehaving.BadNar, "nar", "bad_nar")
    with pytest.raises(PluginError, match=f"nar 'bad_nar': {moment} raised SystemExit: 0"):
        construct(Nar, misbehaving.BadNar, origin, {"at": moment, "fault": "exit"}, {}).complete([1, 2])


# --- import -----------------------------------------------------------------------------------------------------------

IMPORTS = {
    "exit": ("import sys\nsys.exit(0)\n", "SystemExit: 0", 2),
    "interrupt": ("raise KeyboardInterrupt\n", "KeyboardInterrupt", 1),
    "syntax": ("x = 1\nclass\n", "SyntaxError", 2),
    "nested": ("\n\ndef f():\n    raise KeyError('x')\n\n\nf()\n", "KeyError: 'x'", 4),
    "module": ("\nimport nothing_of_that_name\n", "ModuleNotFoundError", 2),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_file_that_does_not_import(tmp_path: Path, name: str) -> None:
    text, said, line = IMPORTS[name]
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    recipe = toy_recipe(tmp_path)
    put("plugins", [str(tmp_path / "mine.py")])(recipe)
    found = here("validate", write_recipe(tmp_path, recipe))
    assert found.code == 4, found.output
    assert f"{tmp_path / 'mine.py'} failed to import: {said}" in found.output
    assert f"mine.py:{line})" in found.output


# --- after a failure --------------------------------------------------------------------------------------------------


def test_the_first_of_two_failures_is_told(tmp_path: Path) -> None:
    """A metric that fails, and a reward whose `close` then fails too."""
    second = put("rewards.exact", {"type": "bad_reward", "at": "close", "fault": "key"})
    found = ended(tmp_path, "metric", "measure", "error", second)
    assert found.code == 4, found.output
    assert "metric 'bad_metric' (evaluation.metrics.accuracy): measure raised RuntimeError: it broke" in found.output


def test_a_fault_of_our_own_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, inputs: object) -> None:
        raise KeyError("a slip")

    monkeypatch.setattr("wavalign.plugins.losses.cross_entropy.CrossEntropy.compute", broken)
    found = ended(tmp_path, "gate", "", "error")
    assert found.code == 4, found.output
    assert "loss 'cross_entropy' (objective.terms.sft.loss): compute raised KeyError: 'a slip'" in found.output
    assert "this is a fault in WavAlign's loss 'cross_entropy'" in found.output


def test_nothing_is_wrong_where_nothing_fails(tmp_path: Path) -> None:
    found = ended(tmp_path, "loss", "", "error")
    assert found.code == 0, found.output
    assert {line["split"] for line in lines(tmp_path / "run" / "metrics.jsonl")} == {"train", "heldout"}
