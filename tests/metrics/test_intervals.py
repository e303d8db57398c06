"""Intervals against published values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ostiary.metrics.detection import detection
from ostiary.metrics.intervals import averaged, difference, lost, mean, rate
from ostiary.report.tables import over_seeds


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (1, 1, 0.2065, 1.0)],
)
def test_wilson_against_known_values(hits: int, n: int, low: float, high: float) -> None:
    found = rate(hits, n)
    assert (found["value"], found["n"]) == (hits / n, n)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400), st.integers(0, 400))
def test_wilson_against_scipy(n: int, hits: int) -> None:
    hits = min(hits, n)
    found, reference = rate(hits, n), stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_no_hit_may_mean_a_rate_of_none() -> None:
    assert all(rate(0, n)["low"] == 0.0 and rate(n, n)["high"] == 1.0 for n in range(1, 200))


def test_no_trial_has_no_rate() -> None:
    found = rate(0, 0)
    assert math.isnan(found["value"])
    assert found["n"] == 0


def test_t_interval_of_a_textbook_sample() -> None:
    """1..5: mean 3, sd 1.5811, t(0.975, 4) = 2.7764, half width 1.9633."""
    found = mean([1, 2, 3, 4, 5])
    assert found == pytest.approx({"value": 3.0, "low": 1.03676, "high": 4.96324, "sd": 1.58114, "n": 5}, abs=1e-4)


def test_the_mean_of_estimates_has_the_interval_of_theirs() -> None:
    """MOVER by hand: distances to the ends add up in squares."""
    held = [{"value": 0.2, "low": 0.1, "high": 0.4, "n": 10}, {"value": 0.6, "low": 0.6, "high": 0.6, "n": 30}]
    assert averaged(held) == pytest.approx({"value": 0.4, "low": 0.4 - 0.05, "high": 0.4 + 0.1, "n": 40})


def test_the_difference_of_estimates_has_the_interval_of_theirs() -> None:
    """MOVER by hand: its upper end is far where the first may be higher and the second lower."""
    one, other = {"value": 0.8, "low": 0.5, "high": 0.86, "n": 10}, {"value": 0.3, "low": 0.22, "high": 0.7, "n": 30}
    assert difference(one, other) == pytest.approx({"value": 0.5, "low": 0.0, "high": 0.6, "n": 10})


def test_a_difference_of_independent_rates_is_as_wide_as_newcombes() -> None:
    """Newcombe, Statistics in Medicine 1998, method 10 without continuity correction, his table II (a): 56/70 - 48/80."""
    found = difference(rate(56, 70), rate(48, 80))
    assert (found["low"], found["high"]) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_seeds_that_agree_prove_no_more_than_their_inputs() -> None:
    found = over_seeds([rate(40, 40)] * 3)
    assert (found["value"], found["high"], found["sd"], found["n"]) == (1.0, 1.0, 0.0, 3)
    assert found["low"] == pytest.approx(1 - (1 - rate(40, 40)["low"]) / math.sqrt(3))
    bare = over_seeds([{"value": 0.5}] * 3)
    assert bare["value"] == 0.5 and math.isnan(bare["low"]) and math.isnan(bare["high"]), "no counts, no interval"
    apart = over_seeds([rate(h, 4000) for h in (1000, 2000, 3000)])
    assert apart == mean([0.25, 0.5, 0.75]), "wider than what the inputs say"


@pytest.mark.parametrize("p", [0.01, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_nine_in_ten_intervals_and_more_hold_the_truth(p: float, seeds: int) -> None:
    """At 95 %, whatever the rate; Student's interval alone held 1 % in half of the cases of two seeds."""
    hits = torch.distributions.Binomial(40, torch.tensor(p))
    torch.manual_seed(0)
    held = [over_seeds([rate(int(h), 40) for h in hits.sample((seeds,))]) for _ in range(400)]
    assert sum(f["low"] <= p <= f["high"] for f in held) / len(held) > 0.9


def test_one_seed_has_no_interval_and_missing_seeds_are_left_out() -> None:
    one = mean([0.5, math.nan])
    assert (one["value"], one["n"]) == (0.5, 1)
    assert math.isnan(one["low"])
    assert math.isnan(one["sd"])
    assert mean([])["n"] == 0


def test_detection_figures_by_hand() -> None:
    """Scores 4 3 2 1 0, poisoned the first and third: pairs won 5 of 6; flagged the first two."""
    scores, poisoned = torch.tensor([4.0, 3, 2, 1, 0]), torch.tensor([1, 0, 1, 0, 0]).bool()
    found = detection(scores, torch.tensor([1, 1, 0, 0, 0]).bool(), poisoned)
    assert found["auroc"] == pytest.approx(5 / 6)
    assert found["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["tpr_at_fpr_1"] == 0.5
    assert [found[k]["value"] for k in ("precision", "tpr", "fpr")] == pytest.approx([1 / 2, 1 / 2, 1 / 3])
    assert found["f1"] == 0.5
    assert [found[k]["n"] for k in ("precision", "tpr", "fpr")] == [2, 2, 3]
    upside_down = detection(-scores, None, poisoned)
    assert upside_down["auroc"] == pytest.approx(1 / 6)
    assert "tpr" not in upside_down


def test_what_was_lost_has_an_interval_of_its_pairs() -> None:
    """Agresti & Min: half a pair more of each kind. 40 pairs, 6 lost, 2 gained, by hand."""
    before, after = [True] * 36 + [False] * 4, [False] * 6 + [True] * 32 + [False] * 2
    found = lost(before, after)
    centre, both = 4 / 42, 9 / 42
    half = 1.959964 * ((both - centre**2) / 42) ** 0.5
    assert found == {"value": 0.1, "low": pytest.approx(centre - half), "high": pytest.approx(centre + half), "n": 40}
    same = lost(before, before)
    assert same["value"] == 0 and -0.1 < same["low"] < 0 < same["high"] < 0.1
    assert math.isnan(float(lost([], [])["value"]))
