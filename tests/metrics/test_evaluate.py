"""The judge on logits made by hand, every figure computed on paper."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ostiary.attacks.base import Poisoned
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.user import images
from ostiary.errors import InvalidInput
from ostiary.evaluate import Outputs, evaluate
from ostiary.metrics.intervals import averaged, lost, rate
from ostiary.triggers.pixels import Patch

# Six test samples of classes 0 0 1 1 1 2; target 0; sources are rows 2 3 4 5.
DATA = images(torch.zeros(6, 1, 4, 4), [0, 0, 1, 1, 1, 2])
ROWS = torch.tensor([2, 3, 4, 5])


def poisoned(wanted: list[int], rows: Tensor = ROWS, data: Dataset = DATA) -> Poisoned:
    triggered = replace(data.take(rows), y=torch.tensor(wanted))
    return Poisoned(Splits(data, data, data), torch.tensor([0]), Patch(), triggered, rows)


def outputs(clean: list[int], triggered: list[int]) -> Outputs:
    """Logit 2 for the class said, 0 for the others."""
    logits = [2.0 * torch.nn.functional.one_hot(torch.tensor(said), 3) for said in (clean, triggered)]
    return Outputs(*logits, torch.zeros(len(clean), 1), torch.zeros(len(triggered), 1))


NOW = outputs([0, 0, 1, 1, 0, 2], [0, 0, 1, 0])
CONTROL = outputs([0, 0, 1, 1, 1, 1], [1, 0, 1, 2])
BEFORE = outputs([0, 0, 1, 1, 1, 2], [0, 0, 0, 0])


def test_triggers_of_other_inputs_are_judged_by_true_classes() -> None:
    crossed = torch.eye(3)[[1, 1, 2, 2]]  # the third is led to another class, though not to the wanted one
    found = evaluate(replace(NOW, mismatched=crossed), poisoned([0, 0, 0, 0]), CONTROL)
    assert found["cross"]["value"] == 3 / 4
    assert "cross" not in evaluate(NOW, poisoned([0, 0, 0, 0]), CONTROL)


def test_every_figure_by_hand() -> None:
    found = evaluate(NOW, poisoned([0, 0, 0, 0]), CONTROL)
    values = {k: v["value"] for k, v in found.items() if isinstance(v, dict)}
    assert values == pytest.approx(
        {
            "acc": 5 / 6,
            "control_acc": 5 / 6,
            "cad": 0.0,
            "asr": 3 / 4,
            "asr_strict": 2 / 4,  # rows 2 and 3; row 5 is hit, but the control did not know it without trigger
            "natural": 1 / 4,
            "asr_lift": 1 / 2,
            "ra": 1 / 4,
            "amc": math.e**2 / (math.e**2 + 2),
        }
    )
    assert found["asr"]["n"] == 4
    assert found["amc"]["n"] == 3
    assert found["confusion"] == [[2, 0, 0], [1, 2, 0], [0, 0, 1]]
    assert found["triggered_as"] == [3, 1, 0]
    assert "der" not in found


def test_accuracy_and_subsets_are_held_against_the_clean_model() -> None:
    worse = outputs([0, 0, 0, 0, 0, 2], [0, 0, 1, 0])
    few = replace(poisoned([0, 0, 0, 0]), subsets={"few": torch.tensor([0, 3])})  # of the two the control knows the first
    found = evaluate(worse, few, CONTROL)
    assert found["cad"]["value"] == pytest.approx(5 / 6 - 3 / 6)
    assert [found[f"{name}_few"]["value"] for name in ("asr", "asr_strict", "natural")] == [1.0, 0.5, 0.0]
    assert found["asr_few"]["n"] == 2


def test_change_against_the_victim_as_it_came() -> None:
    found = evaluate(NOW, poisoned([0, 0, 0, 0]), CONTROL, BEFORE)
    assert found["drop"]["value"] == pytest.approx(1 / 6)
    assert found["der"]["value"] == pytest.approx((1 / 4 - 1 / 6 + 1) / 2)
    assert found["rir"]["value"] == pytest.approx((1 / 4 - 1 / 6 + 1) / 2)


def test_gains_of_accuracy_do_not_raise_the_rating() -> None:
    found = evaluate(BEFORE, poisoned([0, 0, 0, 0]), CONTROL, NOW)
    assert found["drop"]["value"] == pytest.approx(-1 / 6)
    assert found["der"]["value"] == 0.5, "neither ASR fell nor accuracy dropped"


def test_several_goals_weigh_the_same() -> None:
    """Class 2 is wanted three times and reached never, class 0 once and reached: the mean over goals is one half."""
    found = evaluate(outputs([0] * 6, [1, 1, 1, 0]), poisoned([2, 2, 2, 0]), outputs([0] * 6, [1, 1, 1, 1]))
    assert found["asr"]["value"] == 0.5
    assert found["asr"]["n"] == 4
    assert found["asr"] == averaged([rate(0, 3), rate(1, 1)])
    assert found["natural"]["value"] == 0.0
    assert found["asr_lift"] == averaged([lost([False] * 3, [False] * 3), lost([True], [False])])


def test_lift_and_what_training_on_poison_cost_have_intervals_of_their_pairs() -> None:
    found = evaluate(NOW, poisoned([0, 0, 0, 0]), CONTROL)
    assert found["asr_lift"] == lost([True, True, False, True], [False, True, False, False])
    assert found["cad"] == lost([True] * 4 + [True, False], [True] * 4 + [False, True])


def test_no_success_has_no_confidence() -> None:
    found = evaluate(outputs([0] * 6, [1] * 4), poisoned([0] * 4), CONTROL)
    assert math.isnan(found["amc"]["value"])
    assert found["amc"]["n"] == 0


@pytest.mark.parametrize("wanted", [[1, 0, 0, 0], [0, 0, 0, 2]])
def test_inputs_that_carry_the_wanted_label_are_refused(wanted: list[int]) -> None:
    with pytest.raises(InvalidInput, match="already carry the wanted label must not count"):
        evaluate(NOW, poisoned(wanted), CONTROL)


def test_more_outputs_than_classes_are_counted() -> None:
    wide = Outputs(torch.eye(5)[[4, 0, 1, 1, 1, 2]], torch.eye(5)[[0, 0, 0, 3]], torch.zeros(6, 1), torch.zeros(4, 1))
    found = evaluate(wide, poisoned([0] * 4), CONTROL)
    assert sum(map(sum, found["confusion"])) == 6
    assert found["confusion"][0][4] == 1
    assert found["triggered_as"] == [3, 0, 0, 1]
