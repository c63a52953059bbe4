"""Money that is written down before it is spent, by several processes, over kills."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from wavalign.errors import RewardStopped, StorageError
from wavalign.plugins.judging.ledger import FILE, Ledger
from wavalign.plugins.judging.settings import Budget

SOON = 1e12


def ledger(
    folder: Path | None, *, money: float | None = None, requests: int | None = None, patience: float = 0
) -> Ledger:
    return Ledger(Budget(money=money, requests=requests), folder=folder, patience=patience)


def test_what_is_open_counts_with_its_most(tmp_path: Path) -> None:
    mine = ledger(tmp_path, money=1.0)
    first = mine.reserve(0.6, SOON)
    with pytest.raises(RewardStopped, match=r"0\.6000 spent so far in 1 requests, and the next may cost 0\.6000"):
        mine.reserve(0.6, SOON)
    assert first is not None
    mine.settle(first, 0.1)
    assert mine.reserve(0.6, SOON) is not None
    assert mine.money == pytest.approx(0.7) and mine.requests == 2


def test_the_last_coin_is_spent(tmp_path: Path) -> None:
    mine = ledger(tmp_path, money=0.3)
    assert [mine.reserve(0.1, SOON) is not None for _ in range(3)] == [True] * 3
    with pytest.raises(RewardStopped):
        mine.reserve(0.1, SOON)


def test_it_waits_for_others_in_flight(tmp_path: Path) -> None:
    """As long as what they cost may still turn out lower; what a killed process left open does not."""
    one, other = ledger(tmp_path, money=1.0, patience=60), ledger(tmp_path, money=1.0, patience=60)
    key = other.reserve(0.9, SOON)
    assert one.reserve(0.5, time.monotonic() + 0.2) is None
    assert key is not None
    other.settle(key, 0.2)
    assert one.reserve(0.5, SOON) is not None
    late = ledger(tmp_path, money=1.0, patience=0)
    with pytest.raises(RewardStopped):
        late.reserve(0.5, SOON)


def test_a_new_process_knows_it_all(tmp_path: Path) -> None:
    first = ledger(tmp_path, money=1.0)
    key = first.reserve(0.4, SOON)
    assert key is not None
    first.settle(key, 0.25)
    first.reserve(0.4, SOON)  # killed before it was settled
    again = ledger(tmp_path, money=1.0)
    assert again.money == pytest.approx(0.65) and again.requests == 2
    assert again.said() == "0.6500 spent so far in 2 requests"


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_a_kill_cut_short(tmp_path: Path, cut: int) -> None:
    """Of what was settled the most counts; of what was about to be sent nothing was."""
    mine = ledger(tmp_path, money=5.0)
    key = mine.reserve(0.4, SOON)
    assert key is not None
    mine.settle(key, 0.1)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-cut])
    again = ledger(tmp_path, money=5.0)
    assert again.money == pytest.approx(0.4 if cut > 1 else 0.1)
    assert again.reserve(0.4, SOON) is not None
    last = ledger(tmp_path, money=5.0)
    assert last.money == pytest.approx(again.money) and last.requests == 2
    lines = path.read_bytes().splitlines()
    assert json.loads(lines[-1])["most"] == 0.4 and path.read_bytes().endswith(b"\n")


def test_a_file_that_was_cut_is_not_trusted(tmp_path: Path) -> None:
    mine = ledger(tmp_path, money=5.0)
    mine.reserve(0.4, SOON)
    (tmp_path / FILE).write_bytes(b"")
    with pytest.raises(StorageError, match="shorter than it was"):
        mine.reserve(0.4, SOON)


def test_what_a_checkpoint_knows_is_carried_once(tmp_path: Path) -> None:
    one, other = ledger(tmp_path, money=5.0), ledger(tmp_path, money=5.0)
    one.carry(2.0, 7)
    other.carry(2.0, 7)
    assert (one.money, one.requests) == (other.money, other.requests) == (2.0, 7)
    one.reserve(0.5, SOON)
    other.carry(2.0, 7)
    assert other.money == pytest.approx(2.5) and other.requests == 8


def test_no_folder_no_file() -> None:
    mine = ledger(None, requests=1)
    assert mine.reserve(0.0, SOON) is not None
    with pytest.raises(RewardStopped, match="budget of 1 requests"):
        mine.reserve(0.0, SOON)


def spend(folder: str) -> int:
    """Reserve and settle until there is nothing left, at the same time as two others."""
    mine, count = ledger(Path(folder), money=2.0, requests=60, patience=30), 0
    (Path(folder) / f"ready-{os.getpid()}").touch()
    while len(list(Path(folder).glob("ready-*"))) < 3:
        time.sleep(0.001)
    try:
        while (key := mine.reserve(0.1, SOON)) is not None:
            count += 1
            mine.settle(key, 0.05)
    except RewardStopped:
        return count
    return -1


def test_processes_share_it(tmp_path: Path) -> None:
    """Whatever their order, not a coin more than there is: 2.0 in requests that cost 0.05 and may cost 0.1."""
    with multiprocessing.get_context("forkserver").Pool(3) as pool:
        counts = pool.map(spend, [str(tmp_path)] * 3, chunksize=1)
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert sum(counts) == sum("request" in line for line in lines) == 39
    money, most = 0.0, 0.0
    for line in lines:
        money += line["most"] if "request" in line else line["money"] - 0.1
        most = max(most, money)
    assert most <= 2.0 + 1e-9
