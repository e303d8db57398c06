"""GCleaner: recovery, heat maps, every term, and what it does to a clean model."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch

from ostiary import inversion
from ostiary.component import build
from ostiary.evidence import Evidence
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.explainers.heat import HeatBy, heat_maps, node_masks
from ostiary.inversion import Recovered, Recovery, folded, hinge, placed, within
from ostiary.models.victim import Victim
from ostiary.purifiers.gcleaner import GCleaner
from ostiary.purifiers.unlearning import Unlearning, Weights
from ostiary.training.trainer import Trainer

SHORT: dict[str, Any] = {"recovery_steps": 30, "rounds": 2, "epochs": 3, "explainer": {"name": "gnn-explainer", "epochs": 5}}


def test_the_clique_is_recovered_and_the_clean_model_resists_longer(scene: Any) -> None:
    ctx, poisoned, victim, control = scene
    clean = poisoned.splits.clean

    def found(model: Victim, nodes: int, steps: int, goal: int) -> Recovered:
        recovery = Recovery(nodes=nodes, steps=steps)
        return recovery.of(model, clean, recovery.anywhere(clean, 0), goal, ctx)

    whole = found(victim, 4, 100, 0)
    assert whole.rate >= 0.95
    assert whole.edges >= 5.5  # of the 6 of the attacker's own trigger
    assert found(victim, 3, 100, 0).rate - found(control, 3, 100, 0).rate >= 0.15


def test_steps_find_more_than_the_best_uniform_start(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    clean = poisoned.splits.clean
    places = Recovery(nodes=3).anywhere(clean, 0)
    blind, best, found = (
        Recovery(nodes=3, steps=steps).once(victim, clean, places, 1, ctx, coarse=coarse)
        for steps, coarse in ((0, False), (0, True), (100, False))
    )
    assert best.rate - blind.rate >= 0.3
    assert found.rate - blind.rate >= 0.3


def test_recovery_leaves_the_victim_alone(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    before = {k: v.clone() for k, v in victim.state_dict().items()}
    recovery = Recovery(nodes=3, steps=3)
    recovery.of(victim, poisoned.splits.clean, recovery.anywhere(poisoned.splits.clean, 0), 0, ctx)
    assert all(torch.equal(v, before[k]) for k, v in victim.state_dict().items())
    assert all(p.requires_grad for p in victim.parameters())


def test_recovery_ends_soon_after_a_trigger_that_works_gets_no_better(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, poisoned, victim, _ = scene
    clean, counted = poisoned.splits.clean, []
    monkeypatch.setattr(inversion, "hinge", lambda *given: counted.append(1) or hinge(*given))
    places, rates, steps = Recovery(nodes=4).anywhere(clean, 0), [], []
    for patience in (0, 10):
        rates.append(Recovery(nodes=4, steps=100, patience=patience).once(victim, clean, places, 0, ctx, coarse=True).rate)
        steps.append(len(counted))
        counted.clear()
    assert rates == [1.0, 1.0]
    assert steps[0] == 100 and 10 < steps[1] < 60
    Recovery(nodes=1, steps=30, patience=1).once(victim, clean, places[:, :1], 1, ctx)  # a class that one node does not reach
    assert len(counted) == 30


def test_the_copy_that_recovery_asks_answers_as_the_victim(scene: Any) -> None:
    _, poisoned, victim, _ = scene
    inputs, copy = poisoned.splits.clean.inputs, folded(victim)
    assert torch.allclose(copy(inputs), victim.predict(inputs), rtol=1e-4, atol=1e-4)
    assert len(list(copy.parameters())) < len(list(victim.parameters()))
    assert not any(p.requires_grad for p in copy.parameters())


@pytest.mark.parametrize(("flag", "rounds_gone"), [(0.0, 4), (1.0, 2)])
def test_rounds_end_where_no_class_is_reached_and_the_schedule_with_them(scene: Any, flag: float, rounds_gone: int) -> None:
    ctx, poisoned, _, control = scene
    clean = poisoned.splits.clean
    recovery = Recovery(nodes=1, steps=1)
    places = recovery.anywhere(clean, 0)
    first = recovery.of(control, clean, places, 0, ctx)
    assert first.rate < 1.0
    weights = Weights(unlearn=1.0, retain=1.0, heat=0.0, vary=0.0, copies=0)
    hook = Unlearning(control, clean, recovery, [first], places, weights, flag, 4, 3, True, ctx)
    trainer, student = Trainer(epochs=12, lr=1e-4, schedule="cosine", batch_size=1000, freeze_norms=True), control.clone()
    state, seen = trainer.start(student, clean, 0), []
    while state.epoch < 12:
        trainer.run_epoch(state, [hook])
        seen.append(state.optimizer.param_groups[0]["lr"])
    assert len(seen) == hook.gone == 3 * rounds_gone
    passed = [0, 1, 2, 3, 6, 9] if rounds_gone == 2 else range(12)  # strides of three where three rounds are passed in one
    assert seen == pytest.approx([1e-4 * trainer.factor(i) for i in passed])
    assert len(hook.known) == (4 if flag == 0.0 else 3)  # asked at both kinds of nodes before it is done with


def test_similarity_alone_pulls_embeddings_together(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    clean = poisoned.splits.clean
    found = [
        Recovery(nodes=1, steps=steps, by_class=False).of(victim, clean, Recovery(nodes=1).anywhere(clean, 0), 0, ctx)
        for steps in (0, 60)
    ]
    assert found[1].similarity > found[0].similarity


def test_hinge_pulls_together_and_stops_at_the_threshold() -> None:
    assert float(hinge(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 0.95)) == 0.0
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = hinge(apart, 0.95)
    assert float(loss.detach()) == pytest.approx(0.95)
    (grad,) = torch.autograd.grad(loss, apart)
    moved = apart - 0.1 * grad
    assert float(torch.nn.functional.cosine_similarity(moved[0], moved[1], dim=0).detach()) > 0
    assert float(hinge(torch.ones(1, 2), 0.95)) == 0.0


def test_places_map_there_and_back(scene: Any) -> None:
    graphs = scene[1].splits.clean.inputs
    chosen = torch.full((len(graphs), 2), -1)
    chosen[:, 0] = graphs.node_ptr[:-1] + 1
    local = within(graphs, chosen)
    assert local.unique().tolist() == [-1, 1]
    order = torch.randperm(len(graphs))
    moved = placed(graphs.take(order), local[order])
    assert torch.equal(graphs.take(order).x[moved[:, 0]], graphs.x[chosen[order, 0]])


def test_heat_maps_are_unit_and_differentiable(scene: Any) -> None:
    _, poisoned, victim, _ = scene
    part = poisoned.splits.clean.take(torch.arange(5))
    logits, heat = heat_maps(victim, part.inputs, part.y)
    assert len(heat) == 2
    assert all(h.shape == (len(part.inputs.x),) and float(h.detach().min()) >= 0 for h in heat)
    norms = torch.zeros(5).index_add(0, part.inputs.batch, heat[-1].detach().square())
    assert all(abs(n - 1) < 1e-3 or n < 1e-3 for n in norms.tolist())
    grads = torch.autograd.grad(heat[-1][0] + heat[0].sum(), list(victim.parameters()), allow_unused=True)
    assert any(g is not None and float(g.abs().max()) > 0 for g in grads)
    assert torch.allclose(logits, victim(part.inputs), atol=1e-5)


@pytest.mark.parametrize("term", ["unlearn", "retain", "heat", "vary"])
def test_every_term_counts_and_can_be_switched_off(scene: Any, term: str) -> None:
    ctx, poisoned, victim, _ = scene
    clean = poisoned.splits.clean
    recovery = Recovery(nodes=4, steps=20)
    places = recovery.anywhere(clean, 0)
    first = [recovery.of(victim, clean, places, 0, ctx)]
    teacher = ctx.within("teacher").fit(clean)

    def total(**weights: float) -> float:
        full = {"unlearn": 1.0, "retain": 1.0, "heat": 1.0, "vary": 1.0, **weights}
        hook = Unlearning(teacher, clean, recovery, first, places, Weights(**full, copies=2), 0.9, 1, 5, False, ctx)
        state = Trainer().start(victim.clone(), clean, 0)
        rows = torch.arange(len(clean))
        return float(hook.loss(state, clean.inputs, clean.y, rows).detach())

    assert total(**{term: 0.0}) < total()
    assert total(**{term: 2.0}) > total()
    assert total(unlearn=0.0, retain=0.0, heat=0.0, vary=0.0) == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "similarity"},
        {"positions": "random"},
        {"balance": True},
        {"positions": "least", "teacher_epochs": 2, "copies": 0},
        {"heat": 0.0, "optimizer": "sgd", "lr": 0.001, "schedule": "constant"},
    ],
    ids=lambda o: "-".join(map(str, o)),
)
def test_options_run_and_change_the_model(scene: Any, options: dict[str, Any]) -> None:
    ctx, poisoned, victim, _ = scene
    purifier = build("purifier", {"name": "gcleaner", "nodes": 4, "flag": 0.0, **SHORT, **options})
    cleaned = purifier.purify(Evidence(victim=victim, clean=poisoned.splits.clean), ctx)
    assert any(not torch.equal(a, b) for a, b in zip(cleaned.parameters(), victim.parameters(), strict=True))


EXPLAINERS: tuple[dict[str, Any], ...] = (
    {"name": "gnn-explainer", "epochs": 5},
    {"name": "pg-explainer", "epochs": 2},
    {"name": "subgraphx", "rollouts": 2, "samples": 2},
    {"name": "integrated-gradients", "steps": 8},
    {"name": "guided-backprop"},
    {"name": "grad-cam"},
)


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: str(e["name"]))
def test_every_explainer_finds_positions(scene: Any, explainer: dict[str, Any]) -> None:
    ctx, poisoned, victim, _ = scene
    clean, part = poisoned.splits.clean, build("explainer", explainer)
    scores = part.explain(victim, clean.inputs, ctx, clean.y).nodes
    places = Recovery(nodes=3).least(victim, clean, part, ctx)
    for graph, (own, at) in enumerate(zip(scores.split(clean.inputs.n_nodes.tolist()), places, strict=True)):
        kept = torch.ones(len(own), dtype=torch.bool)
        kept[at] = False
        assert int(kept.sum()) == len(own) - 3, graph
        assert float(own[at].max()) <= float(own[kept].min()), graph


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: str(e["name"]))
def test_every_explainer_serves_the_whole_method(scene: Any, explainer: dict[str, Any]) -> None:
    ctx, poisoned, victim, _ = scene
    purifier = GCleaner(nodes=3, positions="least", **{**SHORT, "explainer": explainer, "rounds": 1})
    found = purifier.purify(Evidence(victim=victim, clean=poisoned.splits.clean), ctx).notes["recovered rate"]
    assert max(found.values()) > 0.3


@pytest.mark.parametrize("nodes", [1, 2, 7, 40])
def test_any_number_of_trigger_nodes_also_more_than_a_graph_has(scene: Any, nodes: int) -> None:
    ctx, poisoned, victim, _ = scene
    clean = poisoned.splits.clean
    recovery = Recovery(nodes=nodes, steps=2)
    places = recovery.anywhere(clean, 0)
    assert (places >= 0).sum(1).tolist() == clean.inputs.n_nodes.clamp(max=nodes).tolist()
    stamped = recovery.of(victim, clean, places, 0, ctx).stamp(clean.inputs, placed(clean.inputs, places))
    clean.modality.validate(stamped, "stamped")
    assert torch.equal(stamped.n_nodes, clean.inputs.n_nodes)
    purifier = GCleaner(nodes=nodes, flag=0.0, copies=0, **{**SHORT, "explainer": "grad-cam", "rounds": 1})
    assert purifier.purify(Evidence(victim=victim, clean=clean), ctx).notes["unlearned"] == ["0", "1"]


@pytest.mark.parametrize("by", get_args(HeatBy))
def test_every_kind_of_heat_has_the_gradient_of_its_finite_difference(scene: Any, by: Any) -> None:
    _, poisoned, victim, _ = scene
    part = poisoned.splits.clean.take(torch.arange(6))
    victim, inputs = victim.clone().double().eval(), part.inputs.with_(x=part.inputs.x.double())
    weight = next(p for p in victim.parameters() if p.ndim == 2)
    rng = torch.Generator().manual_seed(0)
    way = torch.randn(weight.shape, generator=rng, dtype=torch.float64)
    wanted = torch.randn(len(inputs.x), generator=rng, dtype=torch.float64)

    def value() -> torch.Tensor:
        logits, maps = heat_maps(victim, inputs, part.y, by)
        assert torch.allclose(logits, victim(inputs))
        return torch.stack([(m * wanted).sum() for m in maps]).sum()

    def moved(step: float) -> float:
        before = weight.detach().clone()
        with torch.no_grad():
            weight.add_(step * way)
        found = float(value().detach())
        with torch.no_grad():
            weight.copy_(before)
        return found

    (grad,) = torch.autograd.grad(value(), weight)
    step = 1e-7  # small enough that no ReLU switches
    slope = (moved(step) - moved(-step)) / (2 * step)
    assert abs(slope) > 1e-6
    assert float((grad * way).sum()) == pytest.approx(slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("by", ["guided-backprop", "integrated-gradients"])
def test_heat_of_the_inputs_is_the_explainers_at_unit_norm(scene: Any, by: str) -> None:
    ctx, poisoned, victim, _ = scene
    part = poisoned.splits.clean.take(torch.arange(6))
    victim = victim.clone().eval()
    options = {"steps": 8} if by == "integrated-gradients" else {}
    nodes = build("explainer", {"name": by, **options}).explain(victim, part.inputs, ctx, part.y).nodes
    (heat,) = heat_maps(victim, part.inputs, part.y, by)[1]  # type: ignore[arg-type]
    for own, other in zip(*(v.split(part.inputs.n_nodes.tolist()) for v in (nodes, heat.detach())), strict=True):
        assert torch.allclose(own / own.norm(), other, atol=1e-5)


def test_the_kind_of_heat_leads_to_different_students(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    students = [
        GCleaner(nodes=4, flag=0.0, heat=5.0, heat_by=by, **{**SHORT, "explainer": "grad-cam", "rounds": 1})
        .purify(Evidence(victim=victim, clean=poisoned.splits.clean), ctx)
        .state_dict()
        for by in get_args(HeatBy)
    ]
    for one, two in itertools.combinations(students, 2):
        assert any(not torch.equal(v, two[k]) for k, v in one.items())


def test_unrolled_masks_keep_the_prediction_and_little_else(scene: Any) -> None:
    """What is minimised, of each graph: cross-entropy, mean of the mask and a tenth of its mean entropy."""
    _, poisoned, victim, _ = scene
    part = poisoned.splits.clean.take(torch.arange(6))
    victim, graphs = victim.clone().eval(), part.inputs

    def objective(mask: torch.Tensor) -> torch.Tensor:
        said = torch.nn.functional.cross_entropy(victim(graphs.with_(x=graphs.x * mask[:, None])), part.y, reduction="none")
        bits = torch.special.entr(mask) + torch.special.entr(1 - mask)
        means = [v.mean() for v in (mask + 0.1 * bits).split(graphs.n_nodes.tolist())]
        return said + torch.stack(means)

    mask = node_masks(victim, graphs, part.y).detach()
    assert ((mask > 0) & (mask < 1)).all()
    assert (objective(mask) < objective(torch.full_like(mask, 0.5))).all()


def test_balanced_rows_give_each_class_the_same_weight(scene: Any) -> None:
    clean = scene[1].splits.clean
    few = clean.take(torch.cat([(clean.y == 0).nonzero().flatten()[:4], (clean.y == 1).nonzero().flatten()[:12]]))
    whole = few.balanced()
    assert torch.bincount(whole.y).tolist() == [12, 12]
    assert torch.bincount(whole.ids)[few.ids].tolist() == [3] * 4 + [1] * 12
    assert few.take(torch.arange(4)).balanced().fingerprint() == few.take(torch.arange(4)).fingerprint()


def test_a_model_without_a_reachable_class_is_left_as_it_is(scene: Any) -> None:
    ctx, poisoned, _, control = scene
    purifier = GCleaner(nodes=1, flag=1.0, recovery_steps=1, explainer=GNNExplainer(epochs=2))
    cleaned = purifier.purify(Evidence(victim=control, clean=poisoned.splits.clean), ctx)
    assert cleaned.notes["unlearned"] == []
    assert all(torch.equal(a, b) for a, b in zip(cleaned.parameters(), control.parameters(), strict=True))


def test_batches_smaller_than_the_clean_set(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    purifier = GCleaner(nodes=4, batch_size=16, **{**SHORT, "explainer": GNNExplainer(epochs=2)})
    cleaned = purifier.purify(Evidence(victim=victim, clean=poisoned.splits.clean), ctx)
    assert cleaned.notes["unlearned"]
