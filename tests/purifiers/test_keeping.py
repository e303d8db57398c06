"""The epoch that an oracle prefers: which one is kept, by each paper's rule, and that nothing is asked without an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import images, victim

from expectations import CORNER, IMAGES, RESNET
from ostiary.errors import MissingEvidence
from ostiary.experiment.runner import run
from ostiary.models.victim import Victim
from ostiary.purifiers.abl import ABL
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.d_br import DBR
from ostiary.purifiers.keeping import Better, Rates, kept, widest
from ostiary.purifiers.nad import NAD, saved
from ostiary.report.html import write_report
from ostiary.testing import toys
from ostiary.training.trainer import Trainer

FAST = {"name": "fct", "steps": 2}
CHOOSING: list[Purifier] = [NAD(teacher_epochs=1, epochs=3), DBR(epochs=3, steps=0, detector=FAST)]  # type: ignore[arg-type]


class Oracle:
    """Says what it was told to, and keeps the weights of all it was asked about."""

    def __init__(self, rates: Sequence[Rates]) -> None:
        self.rates, self.asked = iter(rates), list[list[torch.Tensor]]()

    def __call__(self, candidate: Victim) -> Rates:
        self.asked.append(weights(candidate))
        return next(self.rates)


def weights(model: Victim) -> list[torch.Tensor]:
    return [v.clone() for v in model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def taken(better: Better, rates: Sequence[Rates]) -> list[int]:
    """The epochs, from 1, that replaced the one kept before."""
    return [n for n in range(1, len(rates) + 1) if better(rates[:n])]


def test_d_br_takes_the_first_epoch_of_the_largest_accuracy_less_asr() -> None:
    assert taken(widest, [(0.9, 1.0), (0.8, 0.2), (0.9, 0.4), (0.7, 0.1), (0.5, 0.0)]) == [1, 2]
    assert taken(widest, [(0.25, 0.0), (0.5, 0.25), (0.75, 0.25)]) == [1, 3]


def test_nad_takes_the_last_epoch_whose_accuracy_exceeds_what_its_authors_ask() -> None:
    assert taken(saved, [(0.7, 1.0), (0.71, 1.0), (0.69, 0.9)]) == [2]  # 70 % as long as no ASR is lower
    assert taken(saved, [(0.4, 0.3), (0.35, 0.6), (0.3, 0.1), (0.2, 0.5), (0.1, 0.0)]) == [2, 4]  # then the lowest before


@pytest.mark.parametrize(("passes", "best"), [(1, 2), (2, 1)])
def test_the_hook_ends_with_the_weights_of_the_epoch_that_it_took(passes: int, best: int) -> None:
    rates = [(0.5, 0.5)] * 4
    rates[best - 1] = (0.6, 0.1)
    oracle, model = Oracle(rates), victim(norm=True)
    Trainer(lr=0.1, epochs=4).fit(model, images(), 0, kept(oracle, widest, passes))
    assert len(oracle.asked) == 4 // passes
    ended = [same(seen, weights(model)) for seen in oracle.asked]  # BatchNorm's statistics are among them
    assert ended == [n == best for n in range(1, len(ended) + 1)]
    assert (model.notes["kept epoch"], model.notes["of epochs"]) == (best, 4 // passes)
    assert "test set" in model.notes["chosen by"] and not model.training


def test_asking_changes_nothing_of_the_training() -> None:
    plain, asked = victim(norm=True), victim(norm=True)
    Trainer(epochs=3).fit(plain, images(), 0)
    never = kept(lambda model: (float((model.predict(images().inputs)).argmax(1).double().mean()), 1.0), lambda _: False)
    Trainer(epochs=3).fit(asked, images(), 0, never)
    assert same(weights(plain), weights(asked))
    assert asked.notes["kept epoch"] == asked.notes["of epochs"] == 3  # where none was taken the last one stays
    assert kept(None, widest) == [] and "kept epoch" not in plain.notes


@pytest.fixture(params=CHOOSING, ids=lambda how: how.name)
def how(request: pytest.FixtureRequest) -> Purifier:
    found: Purifier = request.param
    return found


def test_a_method_keeps_the_epoch_that_its_oracle_prefers(how: Purifier) -> None:
    held = toys.evidence("image")
    oracle = Oracle([(0.5, 0.6), (0.8, 0.1), (0.05, 0.3)])
    found = how.replace(oracle=True).purify(held.but(oracle=oracle), toys.context("image"))
    assert [same(seen, weights(found)) for seen in oracle.asked] == [False, True, False]
    assert (found.notes["kept epoch"], found.notes["of epochs"]) == (2, 3)


def test_a_method_that_is_not_told_to_asks_nothing(how: Purifier) -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    watched = held.but(oracle=lambda _: pytest.fail("the oracle was asked"))
    assert "oracle" not in how.needed() and "oracle" not in how.spec()
    found = how.purify(watched, ctx)
    assert same(weights(found), weights(how.purify(held, ctx))) and "kept epoch" not in found.notes
    with pytest.raises(MissingEvidence, match="oracle"):
        how.replace(oracle=True).purify(held, ctx)


def test_d_br_counts_epochs_where_there_is_nothing_to_unlearn() -> None:
    oracle = Oracle([(0.5, 0.6), (0.8, 0.1), (0.7, 0.1)])
    own: Any = {"detector": FAST, "epochs": 3, "steps": 0, "poisoned": 0.0, "oracle": True}
    found = DBR(**own).purify(toys.evidence("image").but(oracle=oracle), toys.context("image"))
    assert (found.notes["kept epoch"], found.notes["of epochs"]) == (2, 3)


def test_abl_whose_authors_choose_nothing_by_the_test_set_takes_no_oracle() -> None:
    assert "oracle" not in ABL().needed() and not hasattr(ABL(), "oracle")


def test_record_and_page_say_who_was_told_by_the_test_set(how: Purifier, tmp_path: Path) -> None:
    plan: dict[str, Any] = {"dataset": IMAGES, "victim": RESNET, "attack": CORNER, "trainer": {"epochs": 2}}
    (record,) = run({**plan, "purifiers": [how.spec(), how.replace(oracle=True).spec()]}, store=tmp_path / "store")
    plain, peeked = record.metrics["purifiers"].values()
    assert (plain["oracle"], peeked["oracle"]) == (False, True)
    assert 1 <= peeked["notes"]["kept epoch"] <= peeked["notes"]["of epochs"] == 3
    (doubt,) = [d for d in record.doubts if "test set (oracle)" in d]
    assert doubt.startswith(f"{how.name}(") and "oracle=True" in doubt
    page = write_report([record], tmp_path / "store", tmp_path / "report.html")
    assert "test set (oracle)" in page.read_text(encoding="utf-8")
