"""Distributions, cuts, and the streams of random numbers."""

import math

import pytest
import torch
from torch import Tensor

from wavalign.plugins.api import Distribution
from wavalign.plugins.samplers.batch import StreamDrawer
from wavalign.plugins.samplers.drawing import LARGEST, Draw, Drawer, penalised, row_uniforms
from wavalign.plugins.samplers.transcript import Transcript

PROBABILITIES = torch.tensor([[0.1, 0.4, 0.05, 0.25, 0.2]])
LOGITS = PROBABILITIES.log()


def draw(drawer: Drawer, u: float, logits: Tensor = LOGITS) -> tuple[int, float, list[int] | None]:
    found = drawer.draw(logits.clone(), torch.tensor([u], dtype=torch.float64))
    support = None if found.support is None else found.support[0].tolist()
    return int(found.ids[0]), math.exp(float(found.logprobs[0])), support


@pytest.mark.parametrize(("u", "expected"), [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.4999, 1), (0.5501, 3), (0.9999, 4)])
def test_the_whole_vocabulary_is_drawn_by_its_cumulative_probability(u: float, expected: int) -> None:
    found, probability, support = draw(Drawer(1.0, 0, 1.0), u)
    assert (found, support) == (expected, None)
    assert probability == pytest.approx(float(PROBABILITIES[0, expected]), abs=1e-6)


def test_temperature_sharpens() -> None:
    """At 0.5 every probability is squared: .16 of .01 + .16 + .0025 + .0625 + .04."""
    found, probability, _ = draw(Drawer(0.5, 0, 1.0), 0.1)
    assert found == 1
    assert probability == pytest.approx(0.16 / 0.275, abs=1e-6)


def test_temperature_zero_takes_the_likeliest_for_certain() -> None:
    assert draw(Drawer(0.0, 2, 0.5), 0.99) == (1, 1.0, None)


@pytest.mark.parametrize(("u", "expected"), [(0.0, 1), (0.61, 1), (0.62, 3), (0.999, 3)])
def test_top_k_renormalises_what_it_keeps(u: float, expected: int) -> None:
    """.4 and .25 stay and share .65."""
    found, probability, support = draw(Drawer(1.0, 2, 1.0), u)
    assert (found, support) == (expected, [1, 3])
    assert probability == pytest.approx({1: 0.4, 3: 0.25}[expected] / 0.65, abs=1e-6)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.39, [1]), (0.41, [1, 3]), (0.64, [1, 3]), (0.66, [1, 3, 4]), (0.96, [1, 3, 4, 0, 2])]
)
def test_top_p_keeps_the_fewest_ids_that_reach_it(top_p: float, kept: list[int]) -> None:
    _, probability, support = draw(Drawer(1.0, 0, top_p), 0.0)
    assert support == kept
    assert probability == pytest.approx(0.4 / float(PROBABILITIES[0, kept].sum()), abs=1e-6)


def test_top_p_counts_within_what_top_k_left() -> None:
    """Of .4, .25, .2 (.85 in all) the first has 47 %: .46 needs one id, where of everything it would need two."""
    assert draw(Drawer(1.0, 3, 0.46), 0.0)[2] == [1]
    assert draw(Drawer(1.0, 3, 0.5), 0.0)[2] == [1, 3]


def test_top_p_looks_as_far_as_it_must() -> None:
    """A flat row needs 900 of 1,000 ids, a peaked one a single id; both in one batch."""
    flat, peaked = torch.zeros(1, 1000), torch.full((1, 1000), -50.0)
    peaked[0, 7] = 0.0
    found = Drawer(1.0, 0, 0.8995).draw(torch.cat([flat, peaked]), torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert found.support is not None
    assert (found.support >= 0).sum(dim=1).tolist() == [900, 1]
    assert found.support[1, :2].tolist() == [7, -1]
    assert found.logprobs.tolist() == pytest.approx([-math.log(900), 0.0], abs=1e-4)


@pytest.mark.parametrize("width", [1025, 1280, 5000])
def test_a_wide_vocabulary_is_drawn_by_its_cumulative_probability(width: int) -> None:
    """Uniforms just within the first, some inner and the last id, borders of cells among them; every third has none."""
    logits = torch.linspace(-3.0, 3.0, width)[torch.randperm(width, generator=torch.Generator().manual_seed(0))]
    columns = torch.tensor([0, 254, 255, 256, 257, 511, 1023, width - 1])
    logits[::3] = -200.0
    logits[columns] = 2.0
    cumulative = (logits / 0.8).double().softmax(0).cumsum(0)
    before = torch.cat([torch.zeros(1).double(), cumulative])[columns]
    for share in (1e-3, 0.5, 1 - 1e-3):
        uniforms = before + share * (cumulative[columns] - before)
        found = Drawer(0.8, 0, 1.0).draw(logits.repeat(len(columns), 1), uniforms)
        assert found.ids.tolist() == columns.tolist()
        expected = (logits / 0.8).double().log_softmax(0)[columns].float()
        torch.testing.assert_close(found.logprobs, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("width", [5, 5000])
def test_an_id_without_weight_is_never_drawn(width: int) -> None:
    """Not even by the largest uniform."""
    logits = torch.full((2, width), -1e4)
    logits[0, 1] = logits[1, width - 2] = 0.0
    for u in (0.0, LARGEST):
        found = Drawer(1.0, 0, 1.0).draw(logits.clone(), torch.full((2,), u, dtype=torch.float64))
        assert (found.ids.tolist(), found.logprobs.tolist()) == ([1, width - 2], [0.0, 0.0])


@pytest.mark.parametrize("width", [700, 5000])
def test_a_row_is_drawn_alike_alone_and_in_a_batch(width: int) -> None:
    """Bit for bit, at any place in it."""
    generator = torch.Generator().manual_seed(0)
    logits, uniforms = 4 * torch.randn(9, width, generator=generator), row_uniforms(0, "x", (1, 9))[0]
    for drawer in (Drawer(0.9, 0, 1.0), Drawer(0.9, 40, 1.0), Drawer(0.9, 0, 0.9), Drawer(0.9, 90, 0.9)):
        whole = drawer.draw(logits.clone(), uniforms)
        for row in range(9):
            one = drawer.draw(logits[row : row + 1].clone(), uniforms[row : row + 1])
            assert (one.ids[0], one.logprobs[0]) == (whole.ids[row], whole.logprobs[row])


@pytest.mark.parametrize("drawer", [Drawer(1.0, 0, 1.0), Drawer(0.7, 3, 1.0), Drawer(1.3, 0, 0.8)])
def test_frequencies_follow_the_reported_probabilities(drawer: Drawer) -> None:
    count = 20_000
    found = drawer.draw(LOGITS.repeat(count, 1), row_uniforms(0, "x", (1, count))[0])
    for index in range(5):
        hits = found.ids == index
        expected = float(found.logprobs[hits][0].exp()) if hits.any() else 0.0
        assert float(hits.float().mean()) == pytest.approx(expected, abs=4 * math.sqrt(0.25 / count))
    assert (found.ids == 2).any() == (not drawer.cuts)


def test_streams_are_apart_and_come_again() -> None:
    one = row_uniforms(1, "d", (2, 500))
    assert torch.equal(one, row_uniforms(1, "d", (2, 500)))
    for other in (row_uniforms(2, "d", (2, 500)), row_uniforms(1, "e", (2, 500))):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.15
    assert 0 <= float(one.min()) < 0.02
    assert 0.98 < float(one.max()) < 1


def test_a_penalty_divides_positive_logits_and_multiplies_negative_ones() -> None:
    """Ids 0, 2 and 3 of the first row, 1 and 4 of the second; an id that comes twice is penalised once."""
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.0, 3.0], [2.0, 1.0, -1.0, 0.0, -3.0]])
    found = penalised(logits, torch.tensor([[0, 2, 0, 3], [1, 4, 4, 4]]), 2.0)
    assert found.tolist() == [[1.0, 1.0, -2.0, 0.0, 3.0], [2.0, 0.5, -1.0, 0.0, -6.0]]


def test_the_penalty_waits_for_more_ids_than_its_window_and_sees_the_newest_of_them() -> None:
    """By hand, likeliest first, window 2: nothing is penalised before the fourth token, then whatever came in the last
    two."""
    logits, drawer = torch.tensor([[3.0, 2.9, 2.8, 0.1]]), StreamDrawer(0, Distribution(0.0, 0, 1.0, 2.0, 2))
    for window in (0, 4):
        transcript, said = written((1, 1, 8), window), []
        for _ in range(8):
            draw = drawer.draw(logits.clone(), transcript)
            said.append(int(draw.ids))
            note(transcript, [draw])
        assert said == [0, 0, 0, 1, 2, 0, 1, 2]


def written(shape: tuple[int, int, int], window: int) -> Transcript:
    return Transcript(torch.full(shape, 0.5, dtype=torch.float64), device=torch.device("cpu"), window=window)


def note(transcript: Transcript, draws: list[Draw]) -> None:
    """One step in which the layout forces nothing and ends nothing."""
    count = len(draws[0].ids)
    transcript.write(draws, forced=torch.full((count, len(draws)), -1))
    none = torch.zeros(count, dtype=torch.bool)
    transcript.close(torch.zeros((count, len(draws)), dtype=torch.int8), finished=none, text_over=none)
    transcript.advance(tuple(range(len(draws))))


@pytest.mark.parametrize("place", [0, 4])
def test_recent_ids_are_the_newest_of_their_own_stream_and_row(place: int) -> None:
    """Where Python counts the steps, and where a tensor does."""
    transcript = written((2, 2, 5), place)
    for step in range(5):
        for window in (3, 4):
            found = transcript.recent(1, window)
            if step <= window:
                assert found is None, "no penalty before there are more ids than the window holds"
            else:
                first = step - window
                expected = [[10 * row + 100 + place for place in range(first, step)] for row in (0, 1)]
                assert found is not None and found.tolist() == expected
        ids = [torch.tensor([10 * row + 100 * stream + step for row in (0, 1)]) for stream in (0, 1)]
        draws = [Draw(each, torch.zeros(2), None) for each in ids]
        note(transcript, draws)
