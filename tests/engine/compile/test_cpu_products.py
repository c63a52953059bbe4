"""How fast a CPU multiplies bfloat16, and what a dry run and `wavalign doctor` say of it."""

from pathlib import Path

import pytest

from tests.toy.compiled import compiled, put
from tests.toy.live import silent
from wavalign.engine.compile import preflight
from wavalign.engine.compile.half_precision import Products, cpu_products, instructions
from wavalign.engine.compile.plan import Cluster
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.preflight_tools import PreflightTools
from wavalign.engine.state.distributed import World

SLOW, FAST = Products(80.0, 1.6, ()), Products(80.0, 240.0, ("amx_bf16",))


def test_rates_are_measured_once() -> None:
    found = cpu_products()
    assert found is cpu_products()
    assert found.float32 > 0.1 and found.bf16 > 0.001
    assert found.ratio == found.bf16 / found.float32


def test_instructions_are_read_from_what_the_system_says(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 amx_bf16 amx_tile\n", encoding="utf-8")
    assert instructions(file) == ("amx_bf16", "avx512_bf16")
    file.write_text("Features\t: fp asimd bf16 i8mm\n", encoding="utf-8")
    assert instructions(file) == ("bf16",)
    assert instructions(tmp_path / "nothing") == ()


def test_what_is_said_of_it() -> None:
    assert SLOW.text == ("matrix products: float32 80, bf16 1.6 GFLOP/s, 50 times as slow; no instructions for it")
    assert "3.0 times as fast; amx_bf16" in FAST.text
    assert "float32" in SLOW.advice and "bf16 pays" in FAST.advice


@pytest.mark.parametrize(
    ("precision", "products", "level"),
    [("bf16", SLOW, "warning"), ("bf16", FAST, None), ("float32", SLOW, None), ("float32", FAST, "ok")],
)
def test_a_dry_run_says_which_precision_fits_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, products: Products, level: str | None
) -> None:
    monkeypatch.setattr(preflight, "cpu_products", lambda: products)
    plan = compiled(tmp_path, put("runtime.precision", precision))
    tools = PreflightTools(Builder(plan, World.single("cpu"), silent))
    found = preflight.preflight(plan, tools, Cluster(cores=1, host_bytes=2**33), folder=str(tmp_path))
    said = [each for each in found.findings if each.what == "precision"]
    assert [each.level for each in said] == ([] if level is None else [level])
    assert all(products.text in each.message for each in said)
