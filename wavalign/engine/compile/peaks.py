"""Operations a second that a GPU reaches at its peak, where its maker says so (`peaks.json`), by torch's name."""

import json
from functools import cache
from pathlib import Path

TERA = 1e12
_FILE = Path(__file__).with_name("peaks.json")


def peak_flops(device: str, precision: str) -> float | None:
    """Of `device` by its whole name, dense and in `precision`; None where the table does not know it."""
    teraflops = _table().get(device, {}).get(precision)
    return None if teraflops is None else teraflops * TERA


@cache
def _table() -> dict[str, dict[str, float]]:
    rows = json.loads(_FILE.read_text(encoding="utf-8"))["devices"]
    return {name: row["tflops"] for row in rows for name in row["names"]}
