"""What a signal does to a step that lasts: it ends first, or is given up in time where nothing is lost by that."""

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from wavalign.engine.run import stopping
from wavalign.engine.run.stopping import StopSignals
from wavalign.errors import Interrupted


class Kept:
    """What is known of checkpoints."""

    def __init__(self, *, survives: bool = True) -> None:
        self.holds = survives

    def newest(self) -> str:
        return "step-3"

    def lost(self) -> int:
        return 1

    def survives(self) -> bool:
        return self.holds


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stopping, "STEP_GRACE", 0.2)
    monkeypatch.setattr(stopping, "_AGAIN", 0.1)
    yield
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def step(stop: StopSignals, work: Callable[[], None], *numbers: signal.Signals) -> None:
    """A step in which signals come."""
    with stop.listening():
        stop.waits = True
        for number in numbers:
            signal.raise_signal(number)
        work()


def test_a_long_step_is_given_up_after_sigterm() -> None:
    """Whoever sends it may kill soon after: what is complete is written before."""
    said: list[str] = []
    stop = StopSignals(Kept(), say=said.append)
    began = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        step(stop, lambda: time.sleep(10), signal.SIGTERM)
    assert 0.15 < time.monotonic() - began < 5
    assert (caught.value.signal, caught.value.at_once) == (signal.SIGTERM, False)
    assert "given up" in said[-1]


def test_not_where_the_last_step_could_not_be_written() -> None:
    """Its weights may have moved: the step goes on until they can be."""
    kept = Kept(survives=False)
    stop = StopSignals(kept, say=lambda text: None)

    def work() -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            time.sleep(0.01)
        kept.holds = True
        time.sleep(10)

    with pytest.raises(Interrupted):
        step(stop, work, signal.SIGTERM)
    assert kept.holds


def test_a_step_that_ends_in_time_is_left_alone() -> None:
    stop = StopSignals(Kept(), say=lambda text: None)
    with stop.listening():
        stop.waits = True
        signal.raise_signal(signal.SIGTERM)
        stop.in_time()  # its checkpoint is being written
        time.sleep(0.4)
    assert stop.asked == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_wait_as_long_as_it_takes(number: signal.Signals) -> None:
    stop = StopSignals(Kept(), say=lambda text: None)
    with stop.listening():
        stop.waits = True
        signal.raise_signal(number)
        time.sleep(0.4)
    assert stop.asked == number


def test_an_announcement_is_no_first_signal() -> None:
    """What a batch system sends at the limit itself still lets the step end; the run says what it was told first."""
    stop = StopSignals(Kept(), say=lambda text: None)
    with stop.listening():
        stop.waits = True
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            signal.raise_signal(number)
        stop.in_time()
        assert stop.interrupted().signal == signal.SIGUSR1


def test_a_second_signal_stops_at_once() -> None:
    stop = StopSignals(Kept(), say=lambda text: None)
    with pytest.raises(Interrupted) as caught:
        step(stop, lambda: None, signal.SIGINT, signal.SIGTERM)
    assert caught.value.at_once
