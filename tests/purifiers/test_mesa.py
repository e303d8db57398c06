"""MESA: fine-tuning on patches that stay in their place, and classes found or given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ostiary.detectors.patch_generators import Generators
from ostiary.detectors.patch_places import Footprint, Places
from ostiary.detectors.patch_search import Found
from ostiary.errors import InvalidInput
from ostiary.evidence import Evidence
from ostiary.purifiers.mesa import MESA, Sampling
from ostiary.seeds import generator, scoped
from ostiary.testing import toys
from ostiary.training.trainer import Trainer

QUICK: dict[str, Any] = {"steps": 3, "scan_steps": 3, "epochs": 1, "hidden": 16}


def test_a_share_of_a_batch_carries_patches_and_labels_stay() -> None:
    with scoped(0, "init"):
        nets = Generators(2, 9, 16)
    batch, y = torch.full((400, 1, 8, 8), 2.0), torch.arange(400)
    state = Trainer().start(toys.victim("image"), toys.splits("image").clean, 0)
    found = Found(nets, Footprint.square(3), Places(torch.zeros(2, 36), learnt=True), torch.zeros(2))
    marked, labels = Sampling(found, 0.2, generator(0, "sampled")).on_batch(state, batch, y, y)
    touched = (marked != 2).flatten(1).sum(1)
    assert set(touched.tolist()) == {0, 9} and 50 < int((touched == 9).sum()) < 110
    assert torch.equal(labels, y)


def test_without_a_class_that_patches_reach_the_model_stays_as_it_is() -> None:
    held = toys.evidence("image")
    found = MESA(**QUICK, flag=1.0).purify(held, toys.context("image"))
    assert found.notes["target"] is None
    assert all(torch.equal(a, b) for a, b in zip(held.victim.parameters(), found.parameters(), strict=True))
    told = MESA(**QUICK, target=2).purify(held, toys.context("image"))
    assert told.notes["target"] == held.clean.classes[2] and "success by class" not in told.notes  # type: ignore[union-attr]


def test_patches_of_any_outline_at_a_known_place_are_fine_tuned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    held, seen = toys.evidence("image"), list[torch.Tensor]()
    put = Sampling.on_batch

    def on_batch(self: Sampling, state: Any, batch: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> Any:
        marked, y = put(self, state, batch, y, rows)
        seen.append((marked != batch).any(0)[0])
        return marked, y

    monkeypatch.setattr(Sampling, "on_batch", on_batch)
    known = {"position": "fixed", "place": (0, -1), "trigger_shape": ("xx", ".x")}
    MESA(**QUICK, **known, target=1, stamped=1.0).purify(held, toys.context("image"))
    side = held.clean.inputs.shape[3]
    assert torch.stack(seen).any(0).nonzero().tolist() == [[0, side - 2], [0, side - 1], [1, side - 1]]


def test_what_was_computed_before_there_were_outlines_keeps_its_key() -> None:
    assert not {"trigger_shape", "place", "batches"} & set(MESA().spec()) and MESA(place=(0, 0)).spec()["place"] == [0, 0]


@pytest.mark.parametrize(("options", "words"), [({"size": 40}, "does not fit"), ({"target": 9}, "does not exist")])
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    held = toys.evidence("image")
    with pytest.raises(InvalidInput, match=words):
        MESA(**QUICK, **options).purify(Evidence(held.victim, clean=held.clean), toys.context("image"))
