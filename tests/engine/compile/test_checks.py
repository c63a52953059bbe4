"""Rules between sections: each broken one is found, at its place, with a remedy."""

from pathlib import Path

import pytest

from tests.toy.compiled import HERE, Change, compiled, drop, problems, put
from tests.toy.world import PLUGINS
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.errors import PluginError, Problem, RecipeError
from wavalign.schema.loading import load_recipe

GPUS = Cluster(gpus=2, gpu_bytes=80 << 30, cores=16, host_bytes=128 << 30)
SFT_ONLY: tuple[Change, ...] = (put("objective.terms", {"sft": {"loss": "cross_entropy"}}), drop("objective.gate"))

RULES: dict[str, tuple[tuple[Change, ...], str, str, str, str]] = {
    # changes, code, path, in the message, in the hint
    "no model": ((drop("model.preset"),), "missing_key", "model", "neither checkpoint nor preset", "preset: tiny"),
    "two models": ((put("model.checkpoint", "x"),), "conflict", "model.preset", "not both", "remove one"),
    "a split of the name of training": (
        (put("data.evaluation", {"train": {"type": "toy_sums"}}),),
        "bad_value",
        "data.evaluation.train",
        "the lines of training steps have it",
        "another name",
    ),
    "two splits that are one on some disks": (
        (put("data.evaluation", {"seen": {"type": "toy_sums"}, "Seen": {"type": "toy_sums"}}),),
        "bad_value",
        "data.evaluation.Seen",
        "`Seen` and `seen` differ in capital letters alone",
        "another name",
    ),
    "two rewards that a reader takes for one": (
        (put("rewards.EXACT", {"type": "toy_exact"}),),
        "bad_value",
        "rewards.EXACT",
        "`EXACT` and `exact`",
        "another name",
    ),
    "two metrics that a reader takes for one": (
        (put("evaluation.metrics.Accuracy", {"type": "toy_accuracy"}),),
        "bad_value",
        "evaluation.metrics.Accuracy",
        "`Accuracy` and `accuracy`",
        "another name",
    ),
    "a term whose values have names of others": (
        (put("objective.terms.loss", {"loss": "cross_entropy"}),),
        "bad_value",
        "objective.terms.loss",
        "logged as `loss/...`",
        "another name",
    ),
    "two terms that a reader takes for one": (
        (put("objective.terms.SFT", {"loss": "cross_entropy"}),),
        "bad_value",
        "objective.terms.SFT",
        "`SFT` and `sft`",
        "another name",
    ),
    "no objective": ((drop("objective"),), "missing_section", "objective", "needs an objective", "cross_entropy"),
    "no demonstrations": (
        (drop("data.demonstrations"),),
        "missing_section",
        "objective.terms.sft",
        "data.demonstrations is not there",
        "add data.demonstrations",
    ),
    "no prompts": (
        (drop("data.prompts"), drop("objective.gate"), put("objective.terms.rl.share", 1), drop("objective.terms.sft")),
        "missing_section",
        "objective.terms.rl",
        "data.prompts is not there",
        "add data.prompts",
    ),
    "advantages without rewards": (
        (drop("rewards"), put("objective.gate", {"type": "fixed", "value": 0.5})),
        "missing_section",
        "objective.terms.rl",
        "needs advantages",
        "add rewards",
    ),
    "a gate without rewards": (
        (drop("rewards"), drop("objective.terms.rl")),
        "missing_section",
        "objective.gate",
        "rewards is not there",
        "type: fixed",
    ),
    "a gate without prompts": (
        (drop("data.prompts"), drop("objective.terms.rl")),
        "missing_section",
        "objective.gate",
        "data.prompts is not there",
        "add data.prompts",
    ),
    "a share without a gate": (
        (drop("objective.gate"), put("objective.terms.sft.share", 1)),
        "missing_gate",
        "objective.terms.rl.share",
        "needs objective.gate",
        "rollout_adaptive",
    ),
    "a share that is none": (
        (put("objective.terms.sft.share", "2 * gate"),),
        "bad_value",
        "objective.terms.sft.share",
        "`gate`, `1 - gate` or a number",
        "",
    ),
    "nothing to learn": (
        (*SFT_ONLY, put("objective.terms.sft.weight", 0)),
        "bad_value",
        "objective.terms",
        "nothing is learned",
        "raise",
    ),
    "a mask over nothing": (
        (put("objective.terms.rl.tokens", {"text": 0}),),
        "bad_value",
        "objective.terms.rl.tokens",
        "selects no token",
        "",
    ),
    "a reward that listens": (
        (put("rewards.style", {"type": "toy_loudness"}),),
        "missing_section",
        "rewards.style",
        "no codec",
        "model.codec",
    ),
    "a metric that listens": (
        (put("evaluation.metrics.heard", "heard_answer"),),
        "missing_section",
        "evaluation.metrics.heard",
        "no codec",
        "model.codec",
    ),
    "metrics of nothing": (
        (drop("data.evaluation"),),
        "missing_section",
        "evaluation.metrics",
        "no data.evaluation",
        "add data.evaluation",
    ),
    "zero without deepspeed": (
        (put("runtime.engine", {"type": "plain", "zero": 2}),),
        "conflict",
        "runtime.engine.zero",
        "DeepSpeed's",
        "type: deepspeed",
    ),
    "offload without deepspeed": (
        (put("runtime.engine", {"type": "plain", "offload_optimizer": True}),),
        "conflict",
        "runtime.engine.offload_optimizer",
        "DeepSpeed's",
        "type: deepspeed",
    ),
    "kept between checkpoints": (
        (put("runtime.keep_every", 5),),
        "conflict",
        "runtime.keep_every",
        "checkpoints come every 2 steps",
        "a multiple of checkpoint_every: 4 or 6",
    ),
    "an option of another stage": (
        (put("runtime.engine", {"type": "deepspeed", "zero": 2, "options": {"sub_group_size": 7}}),),
        "conflict",
        "runtime.engine.options.sub_group_size",
        "at ZeRO stage 2 and reads no sub_group_size",
        "remove it",
    ),
    "parameters elsewhere without deepspeed": (
        (put("runtime.engine", {"type": "plain", "offload_parameters": True}),),
        "conflict",
        "runtime.engine.offload_parameters",
        "DeepSpeed's",
        "type: deepspeed",
    ),
    "parameters elsewhere that lie whole": (
        (put("runtime.engine", {"type": "deepspeed", "zero": 2, "offload_parameters": True}),),
        "conflict",
        "runtime.engine.offload_parameters",
        "the stage is 2",
        "zero: 3",
    ),
    "parameters on a drive": (
        (put("runtime.engine", {"type": "deepspeed", "zero": 3, "offload_parameters": "nvme"}),),
        "conflict",
        "runtime.engine.offload_parameters",
        "parameters on NVMe are not offered: a transfer that fails there counts as done",
        "offload_parameters: true",
    ),
    "an optimiser on a drive": (
        (put("runtime.engine", {"type": "deepspeed", "zero": 3, "offload_optimizer": "nvme"}),),
        "conflict",
        "runtime.engine.offload_optimizer",
        "an optimiser on NVMe is not offered: a transfer that fails there counts as done",
        "offload_optimizer: true",
    ),
    "an optimiser on a drive that stays in memory": (
        (put("runtime.engine", {"type": "deepspeed", "zero": 2, "offload_optimizer": "nvme"}),),
        "conflict",
        "runtime.engine.offload_optimizer",
        "stage 2 of DeepSpeed does not move an optimiser to NVMe: it stays in host memory",
        "offload_optimizer: true",
    ),
    "offload without zero": (
        (put("runtime.engine", {"type": "deepspeed", "offload_optimizer": True}),),
        "conflict",
        "runtime.engine.offload_optimizer",
        "ZeRO stage",
        "zero: 2",
    ),
    "a device that is not there": (
        (put("runtime.device", "cuda"),),
        "no_device",
        "runtime.device",
        "no GPU",
        "device: auto",
    ),
    "a device that is not there, one process per GPU": (
        (put("runtime.device", "cuda"), put("runtime.processes", "auto")),
        "no_device",
        "runtime.device",
        "no GPU",
        "device: auto",
    ),
    "prompts that do not divide": (
        (put("runtime.processes", 4), put("batch.prompts", 10)),
        "geometry",
        "batch.prompts",
        "10 prompts do not divide by 4 processes",
        "8 or 12",
    ),
    "demonstrations that do not divide": (
        (put("runtime.processes", 4), put("batch.demonstrations", 3)),
        "geometry",
        "batch.demonstrations",
        "3 demonstrations do not divide by 4 processes",
        "divide: 4;",
    ),
    "a group of one whose answers are paired": (
        (
            put("rollout.group_size", 1),
            put("plugins", [str(PLUGINS), str(PLUGINS.parent / "openings.py")]),
            put("objective.terms.rl.loss", "toy_pairwise"),
            put("objective.terms.rl.family", "rollouts"),
        ),
        "geometry",
        "rollout.group_size",
        "term `rl` prefers one answer to another",
        "2 or more",
    ),
    "a group of one": (
        (put("rollout.group_size", 1),),
        "geometry",
        "rollout.group_size",
        "compared with itself",
        "2 or more",
    ),
    "a stream that is not drawn": (
        (put("rollout.streams", {"mix": {"temperature": 0}}),),
        "bad_value",
        "rollout.streams.mix.temperature",
        "above 0",
        "evaluation.sampling",
    ),
    "a repetition penalty where it is learned from": (
        (put("rollout.streams", {"mix": {"repetition_penalty": 1.1}}),),
        "bad_value",
        "rollout.streams.mix.repetition_penalty",
        "another distribution",
        "evaluation.sampling",
    ),
    "an unknown type": (
        (put("objective.terms.rl.loss", {"type": "grop"}),),
        "unknown_type",
        "objective.terms.rl.loss.type",
        "no loss named 'grop'",
        "did you mean 'grpo'?",
    ),
    "a type of another kind": (
        (put("rewards.exact.type", "cross_entropy"),),
        "unknown_type",
        "rewards.exact.type",
        "no reward named 'cross_entropy'",
        "is a loss, not a reward",
    ),
    "an option that is not there": (
        (put("rollout.sampler", {"type": "kv_cache", "max_row": 4}),),
        "unknown_key",
        "rollout.sampler.max_row",
        "max_row",
        "max_rows",
    ),
}


def line_of(path: Path, dotted: str) -> int:
    """The line of a dotted path in a file as the toy recipe is written: one key a line, two spaces a level."""
    rows = path.read_text(encoding="utf-8").splitlines()
    start = 0
    for depth, name in enumerate(dotted.split(".")):
        start = next(i for i in range(start, len(rows)) if rows[i].startswith(f"{'  ' * depth}{name}:"))
    return start + 1


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_broken_rule(tmp_path: Path, rule: tuple[tuple[Change, ...], str, str, str, str]) -> None:
    changes, code, path, message, hint = rule
    (found,) = problems(tmp_path, *changes)
    assert (found.code, found.path) == (code, path)
    assert message in found.message
    assert hint in found.hint
    assert found.where is not None
    assert found.where.file == str(tmp_path / "toy.yaml")
    assert found.where.text != ""


PLACED = ["a group of one", "an unknown type", "a reward that listens", "a gate without rewards", "two models"]


@pytest.mark.parametrize("name", PLACED)
def test_the_line_is_the_one_that_says_it(tmp_path: Path, name: str) -> None:
    changes, _, path, _, _ = RULES[name]
    (found,) = problems(tmp_path, *changes)
    assert found.where is not None
    # A mapping stands where its first key does, one line below its name.
    assert found.where.line - line_of(tmp_path / "toy.yaml", path) in (0, 1)


def test_more_processes_than_gpus(tmp_path: Path) -> None:
    many = (put("runtime.processes", 4), put("runtime.device", "auto"))
    (found,) = problems(tmp_path, *many, cluster=GPUS)
    assert (found.path, found.message) == ("runtime.processes", "4 processes and 2 GPUs")
    assert (
        compiled(tmp_path, put("runtime.processes", "auto"), put("runtime.device", "auto"), cluster=GPUS).processes == 2
    )
    assert compiled(tmp_path, put("runtime.processes", 4), cluster=GPUS).processes == 4  # its device is the CPU
    assert compiled(tmp_path, put("runtime.processes", "auto"), cluster=GPUS).processes == 1


def test_what_is_switched_off_makes_no_demands(tmp_path: Path) -> None:
    compiled(
        tmp_path,
        put("objective.terms.rl.weight", 0),
        put("objective.terms.sft.share", 1),
        drop("data.prompts"),
        drop("rewards"),
    )


def test_several_problems_come_together_in_file_order(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        put("model.architecture.type", "vitta"),
        put("rewards.exact.scales", [1, 5]),
        put("objective.advantage", {"type": "group_normalized", "std": "median"}),
        put("objective.terms.rl.share", "gates"),
        drop("data.demonstrations"),
        put("evaluation.metrics.accuracy", "toy_acuracy"),
        put("runtime.trackers", ["tensorbord"]),
        put("runtime.engine", {"type": "plain", "zero": 1}),
    )
    assert [each.path for each in found] == [
        "model.architecture.type",
        "rewards.exact.scales",
        "objective.terms.rl.share",
        "objective.terms.sft",
        "objective.advantage.std",
        "evaluation.metrics.accuracy.type",
        "runtime.trackers.0.type",
        "runtime.engine.zero",
    ]
    lines = [each.where.line for each in found if each.where is not None]
    assert lines == sorted(lines)


STAGED = """\
name: staged
plugins: [{plugins}]
model:
  architecture: {{type: vita}}
  preset: tiny
data:
  prompts: {{type: toy_sums}}
  demonstrations: {{type: toy_sums}}
rewards:
  exact: {{type: toy_exact}}
objective:
  terms:
    sft: {{loss: cross_entropy}}
stages:
  - name: warm
  - name: align
    rollout:
      group_size: 1
    objective:
      terms:
        rl:
          loss: grpo
          share: gate
  - name: more
    data:
      demonstrations: {{type: jsnl, path: gold.jsonl}}
"""


def staged(folder: Path, *files: tuple[str, str]) -> list[tuple[str, str, int]]:
    """(code, path, line) of each problem of the last of `files`, written as given."""
    for name, text in files:
        (folder / name).write_text(text, encoding="utf-8")
    return [(each.code, each.path, each.where.line if each.where else 0) for each in found(folder / files[-1][0])]


def found(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(RecipeError) as caught:
        compile_recipe(load_recipe(str(path)), HERE)
    return caught.value.problems


def test_problems_inside_stages(tmp_path: Path) -> None:
    text = STAGED.format(plugins=PLUGINS)
    assert staged(tmp_path, ("recipe.yaml", text)) == [
        ("missing_gate", "stages.1.objective.terms.rl.share", 23),
        ("unknown_type", "stages.2.data.demonstrations.type", 26),
    ]
    with_gate = text.replace("share: gate", "share: 1").replace("jsnl", "jsonl")
    assert staged(tmp_path, ("recipe.yaml", with_gate)) == [("geometry", "stages.1.rollout.group_size", 18)]


def test_a_mistake_in_a_shared_section_is_one_problem(tmp_path: Path) -> None:
    """Three stages share the reward; it is wrong once."""
    text = STAGED.format(plugins=PLUGINS).replace("toy_exact", "toy_exakt").replace("jsnl", "jsonl")
    text = text.replace("share: gate", "share: 1").replace("group_size: 1", "group_size: 2")
    assert staged(tmp_path, ("recipe.yaml", text)) == [("unknown_type", "rewards.exact.type", 10)]


def test_problems_across_extends_and_overrides(tmp_path: Path) -> None:
    """The place is the file that says it; what the recipe says over it is named there."""
    base = STAGED.format(plugins=PLUGINS).partition("stages:")[0].replace("cross_entropy", "cros_entropy")
    over = "extends: base.yaml\nobjective:\n  terms:\n    rl: {loss: grpo, share: gate}\n"
    assert staged(tmp_path, ("base.yaml", base), ("recipe.yaml", over)) == [
        ("missing_gate", "objective.terms.rl.share", 4),
        ("unknown_type", "objective.terms.sft.loss.type", 13),
    ]
    files = [Path(each.where.file).name for each in found(tmp_path / "recipe.yaml") if each.where]
    assert files == ["recipe.yaml", "base.yaml"]
    with pytest.raises(RecipeError) as caught:
        compile_recipe(load_recipe(str(tmp_path / "recipe.yaml"), ("objective.terms.sft.loss=cross",)), HERE)
    wrong = next(each for each in caught.value.problems if each.code == "unknown_type")
    assert wrong.where is not None
    assert "--set" in f"{wrong.where.file}{wrong.where.via}"


def test_a_stage_starts_from_weights_of_its_own_or_of_a_stage_before(tmp_path: Path) -> None:
    text = STAGED.format(plugins=PLUGINS).partition("stages:")[0].replace("  preset: tiny\n", "")
    stages = """\
stages:
  - name: codec
    type: fit_codec
    model: {codec: {type: source_filter}}
  - name: first
    model: {preset: tiny}
  - name: second
  - name: third
    start: codec
"""
    assert staged(tmp_path, ("recipe.yaml", text + stages)) == [("missing_key", "model", 4)]
    path = tmp_path / "recipe.yaml"
    path.write_text(text + stages.replace("start: codec", "start: first"), encoding="utf-8")
    compile_recipe(load_recipe(str(path)), HERE)


BROKEN = {
    "syntax": ("def f(:\n", "SyntaxError"),
    "import": ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
    "raises": ("raise ValueError('not today')\n", "not today"),
    "exits": ("raise SystemExit(3)\n", "SystemExit"),
    "empty": ("x = 1\n", "defines no plugin"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_file_is_no_problem_of_the_recipe(tmp_path: Path, name: str) -> None:
    text, message = BROKEN[name]
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(PluginError, match=message) as caught:
        compiled(tmp_path, put("plugins", [str(tmp_path / "mine.py"), str(PLUGINS)]))
    assert caught.value.exit_code == 4
    assert "mine.py" in caught.value.message


NEEDY = """\
from wavalign.plugins.api import Loss, LossInputs, LossOutput


class Needy(Loss):
    type = "needy"
    family = "{rows}"

    @property
    def needs(self):
        return frozenset({{"{need}"}})

    def compute(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(inputs.logprobs)
"""


@pytest.mark.parametrize(
    ("rows", "need"),
    [("demonstrations", "advantages"), ("demonstrations", "old_logprobs"), ("rollouts", "old_logprob")],
)
def test_a_loss_cannot_need_what_its_rows_do_not_have(tmp_path: Path, rows: str, need: str) -> None:
    (tmp_path / "mine.py").write_text(NEEDY.format(rows=rows, need=need), encoding="utf-8")
    with pytest.raises(PluginError, match=f"'needy' needs {need}, which {rows} do not have"):
        compiled(
            tmp_path,
            put("plugins", [str(tmp_path / "mine.py"), str(PLUGINS)]),
            put("objective.terms.mine", {"loss": "needy"}),
        )
