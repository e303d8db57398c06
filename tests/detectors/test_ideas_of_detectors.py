"""The lines that carry the idea of a detector, an explainer or a figure, each held to what it must give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ostiary.component import build
from ostiary.context import Context
from ostiary.detectors import fct
from ostiary.detectors.class_triggers import recovered
from ostiary.detectors.masks import MaskInversion
from ostiary.detectors.seven_metrics import SevenMetrics
from ostiary.detectors.uniform_triggers import BARE, tried
from ostiary.detectors.xgbd import XGBD
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.inversion import Recovered, Recovery
from ostiary.metrics.detection import detection
from ostiary.models.victim import Victim
from ostiary.testing import toys
from ostiary.training.trainer import Trainer
from stopping import Stop, stopping


def test_xgbd_scores_what_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    train = held.train
    blank = train.inputs.with_(x=torch.zeros_like(train.inputs.x))
    monkeypatch.setattr(XGBD, "explained", lambda *_: blank)
    found = XGBD(per_class=False).inspect(held, ctx).scores
    helper = ctx.within("helper").fit(train)
    assert torch.allclose(found, -F.cross_entropy(helper.predict(blank), train.y, reduction="none"), atol=1e-5)


def test_spectral_scores_are_shares_of_their_classes_mean() -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    found = build("detector", "spectral").inspect(held, ctx)
    for c in held.train.y.unique():
        assert float(found.scores[held.train.y == c].mean()) == pytest.approx(1.0, rel=1e-5)


def test_recovered_triggers_are_judged_where_they_were_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, plain = [], Recovery.anywhere
    monkeypatch.setattr(Recovery, "anywhere", lambda s, data, seed: seeds.append(seed) or plain(s, data, seed))
    recovered(toys.victim("graph"), toys.splits("graph").clean, 0, Recovery(2, 1), 1, toys.context("graph"))
    assert len(set(seeds)) == len(seeds) == 2


def test_rates_at_one_and_five_percent() -> None:
    scores = torch.tensor([50.0, *range(40, 21, -1), 45, 20, 10])  # of 20 clean ones the first scores highest
    poisoned = torch.tensor([False] * 20 + [True] * 3)
    found = detection(scores, None, poisoned)
    assert found["tpr_at_fpr_1"] == 0.0 and found["tpr_at_fpr_5"] == pytest.approx(1 / 3)


def test_both_ends_of_a_metric_are_suspicious(monkeypatch: pytest.MonkeyPatch) -> None:
    held = toys.evidence("graph")
    how = build("detector", {"name": "seven-metrics"})
    n = len(how.suspects(held))

    def measures(_self: Any, _victim: Any, graphs: Any, *_: Any) -> torch.Tensor:
        found = torch.zeros(7, len(graphs), dtype=torch.float64)
        found[:, n:] = torch.linspace(-1, 1, len(graphs) - n)
        found[:, 0], found[:, 1] = -9.0, 9.0  # far below and far above what clean graphs show
        return found

    monkeypatch.setattr(SevenMetrics, "measures", measures)
    found = how.inspect(held, toys.context("graph"))
    assert found.flagged[:3].tolist() == [True, True, False]


@pytest.mark.parametrize(("modality", "epochs"), [("image", 10), ("graph", 0)])
def test_classes_are_pushed_apart_on_images_alone(modality: str, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    monkeypatch.setattr(fct, "push_apart", stopping(seen, lambda _victim, _train, trainer, _ctx: trainer.epochs))
    with pytest.raises(Stop):
        fct.FCT(steps=1).inspect(toys.evidence(modality), toys.context(modality))
    assert seen == [epochs]


def test_bare_shapes_and_kinds_have_panels_of_their_own() -> None:
    clean = toys.splits("graph").clean

    class Stub:
        calls = 0

        def margins(self, *_: Any) -> torch.Tensor:
            self.calls += 1
            return torch.zeros(2, clean.n_classes)

        def leads(self, margins: Any) -> torch.Tensor:
            return torch.zeros(len(margins), clean.n_classes)

    a, b = Stub(), Stub()
    names, _ = tried(a, b, clean, 0)
    assert a.calls == len(BARE) and b.calls == len(names) - len(BARE) > 0 and a.calls != b.calls


def test_the_best_of_several_starts_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, keys, rates = toys.splits("graph").clean, [], iter((0.5, 0.9, 0.2))

    def once(_self: Any, _victim: Any, _clean: Any, _places: Any, goal: int, ctx: Context, **_: Any) -> Recovered:
        keys.append(ctx.key("weights"))
        return Recovered(goal, next(rates), 0.0, 0.0, None, None, None, "one-hot")

    monkeypatch.setattr(Recovery, "once", once)
    how = Recovery(2, restarts=3)
    found = how.of(toys.victim("graph"), clean, how.anywhere(clean, 0), 0, toys.context("graph"))
    assert found.rate == 0.9 and len(set(keys)) == 3


def test_images_of_a_class_do_not_count_for_it() -> None:
    clean, victim = toys.splits("image").clean, toys.victim("image")
    own = clean.take((victim.predict(clean.inputs).argmax(1) == 0).logical_and(clean.y == 0).nonzero().flatten())
    found = MaskInversion(3, 0.01, 8, 0.5, 1e-3, 5).of(victim, own, torch.Generator().manual_seed(0))
    assert len(own) > 0 and float(found.norms[0]) == float("inf")


def test_guided_attributions_have_no_sign() -> None:
    for modality in ("graph", "image"):
        found = build("explainer", "guided-backprop").explain(
            toys.victim(modality), toys.splits(modality).clean.inputs, toys.context(modality)
        )
        for scores in (found.nodes, found.edges, found.pixels):
            assert scores is None or float(scores.min()) >= 0


def test_rates_at_a_false_alarm_rate_know_every_threshold() -> None:
    """Where each score is shared by a sample of either kind, all operating points lie on one line."""
    truth = torch.arange(200) % 2 == 0
    found = detection(torch.arange(200) // 2, None, truth)
    assert (found["tpr_at_fpr_1"], found["tpr_at_fpr_5"]) == (pytest.approx(0.01), pytest.approx(0.05))


def test_fct_refuses_models_without_features_before_it_trains_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(held.train.inputs[0].numel(), 4))
    monkeypatch.setattr(Context, "fresh", lambda *_: Victim(flat, "image"))
    monkeypatch.setattr(Trainer, "run_batch", stopping([], lambda *_: None))
    with pytest.raises(Unsupported, match=r"'fct' not applicable: '1' is the model's only layer"):
        build("detector", "fct").inspect(Evidence(train=held.train), ctx)
