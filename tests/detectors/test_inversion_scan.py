"""The inversion scan: a backdoored model is flagged with its class, a clean one is not, and what is said of each class."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from expectations import CLIQUE, GIN, GRAPHS
from ostiary.component import build
from ostiary.context import Context
from ostiary.detectors.base import Findings
from ostiary.detectors.class_triggers import margin, spread
from ostiary.detectors.inversion_scan import InversionScan
from ostiary.detectors.lessons import lessons_of
from ostiary.detectors.outliers import anomaly
from ostiary.detectors.panel import Panel
from ostiary.detectors.references import School, untrained
from ostiary.detectors.uniform_triggers import edges
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.training.trainer import Trainer

SCAN = InversionScan(nodes=4, threshold=0.15)  # the clique has four nodes; on small graphs references share part of it


@pytest.fixture(scope="module")
def findings(scene: Any) -> tuple[Findings, Findings]:
    """Of the backdoored victim and of the clean one."""
    ctx, poisoned, victim, control = scene
    found = [SCAN.inspect(Evidence(model, None, poisoned.splits.clean), ctx.within("scan")) for model in (victim, control)]
    return found[0], found[1]


def test_the_backdoored_model_is_flagged_with_its_class_and_the_clean_one_is_not(findings: Any) -> None:
    backdoored, clean = findings
    assert backdoored.classes == (0,)
    assert clean.classes == ()
    assert float(backdoored.scores.max()) > 2 * float(clean.scores.max())


def test_the_recovered_trigger_is_said_and_drawn(scene: Any, findings: Any) -> None:
    _, poisoned, _, _ = scene
    found: Findings = findings[0]
    lines = found.info["classes"]
    assert list(lines) == list(poisoned.splits.clean.classes)
    assert lines["0"]["flagged"] and not lines["1"]["flagged"]
    assert lines["0"]["size needed"] in (2, 3, 4)
    assert lines["0"]["nodes"]["4"]["rate"] > 0.9
    assert lines["0"]["nodes"]["4"]["edges"] <= 6
    assert lines["0"]["anomaly index"] is None  # two classes have no outlier
    assert lines["0"]["trigger"].startswith("4 clique")
    assert lines["0"]["score"] > 0 > lines["1"]["score"]
    assert [d["class"] for d in found.info["drawn"]] == [0, 1]
    assert all(d["sample"]["kind"] == "graph" and d["sample"]["touched"] for d in found.info["drawn"])
    json.dumps(found.info, allow_nan=False)


def test_the_same_seed_finds_the_same_and_leaves_the_model_alone(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    quick = InversionScan(nodes=2, steps=3, epochs=2)
    before = {k: v.clone() for k, v in victim.state_dict().items()}
    first, second = (quick.inspect(Evidence(victim, None, poisoned.splits.clean), ctx) for _ in range(2))
    assert torch.equal(first.scores, second.scores)
    assert all(torch.equal(v, before[k]) for k, v in victim.state_dict().items())


def test_one_class_of_clean_graphs_is_refused(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    clean = poisoned.splits.clean
    few = clean.take((clean.y == 1).nonzero().flatten())
    with pytest.raises(Unsupported, match=r"all \d+ clean graphs are of class 1, .*; give clean graphs of at least two"):
        SCAN.inspect(Evidence(victim, None, few), ctx)


def test_the_median_of_two_classes_is_refused(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    with pytest.raises(Unsupported, match=r"index=mad: the median of 2 classes .* at least 4, or use index=margin"):
        InversionScan(index="mad").inspect(Evidence(victim, None, poisoned.splits.clean), ctx)


def test_the_mad_index_flags_an_outlier_among_four_classes() -> None:
    splits = build("dataset", {**GRAPHS, "n_classes": 4, "clean_rate": 0.15}).load(0)
    ctx = Context(seed=0, architecture=build("victim", GIN), trainer=Trainer(epochs=20, batch_size=32))
    poisoned = build("attack", {**CLIQUE, "target": 2}).poison(splits, ctx)
    found = InversionScan(nodes=4, index="mad").inspect(Evidence(ctx.fit(poisoned.splits.train), None, splits.clean), ctx)
    index = [line["anomaly index"] for line in found.info["classes"].values()]
    assert found.classes == (2,)
    assert index[2] == max(index) > 2


def test_spread_keeps_other_classes_and_tells_copies_apart(scene: Any) -> None:
    clean = scene[1].splits.clean
    several = spread(clean, 0, 3)
    assert len(several) == 3 * int((clean.y != 0).sum())
    assert not bool((several.y == 0).any())
    assert len(several.ids.unique()) == len(several)


def test_small_numbers() -> None:
    assert margin(torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]]), 0).tolist() == [1.0, -5.0]
    index = anomaly(torch.tensor([0.0, 1.0, 2.0, 3.0, 100.0]))
    assert float(index[2]) == 0.0
    assert float(index[4]) == pytest.approx(98 / 1.4826)


def test_a_smaller_graph_than_the_trigger_is_no_obstacle(scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    clean = poisoned.splits.clean
    assert int(clean.inputs.n_nodes.min()) < 10
    found = InversionScan(nodes=10, steps=1, copies=1, epochs=1).inspect(Evidence(victim, None, clean), ctx)
    assert bool(torch.isfinite(found.scores).all())


@pytest.mark.parametrize("teaching", [School.by_answers, School.by_labels])
def test_references_have_the_answers_but_not_the_backdoor(teaching: Any, scene: Any) -> None:
    ctx, poisoned, victim, _ = scene
    clean, triggered = poisoned.splits.clean, poisoned.triggered
    before = {k: v.clone() for k, v in victim.state_dict().items()}
    first, second = teaching(School(victim, clean, 2, 640, 10), ctx.within("scan"))
    assert all(torch.equal(v, before[k]) for k, v in victim.state_dict().items())
    assert not torch.equal(first.predict(clean.inputs), second.predict(clean.inputs))
    said = victim.predict(poisoned.splits.test.inputs).argmax(1)
    for net in (first, second):
        assert float((net.predict(poisoned.splits.test.inputs).argmax(1) == said).double().mean()) > 0.8
        taken = float((net.predict(triggered.inputs).argmax(1) == triggered.y).double().mean())
        assert taken < float((victim.predict(triggered.inputs).argmax(1) == triggered.y).double().mean()) - 0.3


def test_untrained_forgets_every_weight_even_of_layers_that_cannot_draw_their_own() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.lin = nn.Parameter(torch.arange(50.0)), nn.Linear(3, 2)

    module = Scaled()
    fresh: Any = untrained(Victim(module, "graph"), 0).module
    assert not torch.equal(fresh.own, module.own)
    assert torch.equal(fresh.own.sort()[0], module.own)
    assert not torch.equal(fresh.lin.weight, module.lin.weight)


def test_lessons_hold_no_edge_that_no_clean_graph_has(scene: Any) -> None:
    clean = scene[1].splits.clean
    lessons = lessons_of(clean, 200, torch.Generator().manual_seed(0))
    assert 200 <= len(lessons) <= 200 + 2 * len(clean)
    assert int(lessons.n_nodes.max()) > int(clean.inputs.n_nodes.max())  # pairs
    known = [pairs_of(clean.inputs, i) for i in range(len(clean))]
    single = len(clean) * -(-160 // len(clean))
    assert all(pairs_of(lessons, i) <= known[i % len(clean)] for i in range(single))


def pairs_of(graphs: Any, i: int) -> set[tuple[int, int]]:
    one = graphs.take(torch.tensor([i]))
    return set(zip(*one.edge_index.tolist(), strict=True))


def lead(panel: Panel, graphs: Any, y: torch.Tensor) -> torch.Tensor:
    return panel.leads([panel.margins(graphs, y)])[0]


def test_a_panel_credits_only_what_the_references_do_not_share(scene: Any) -> None:
    _, poisoned, victim, control = scene
    clean, triggered = poisoned.splits.clean, poisoned.triggered
    y = torch.ones(len(triggered), dtype=torch.int64)  # graphs of class 1, led to class 0
    alone = lead(Panel(victim, [control], clean, 0.1), triggered.inputs, y)
    shared = lead(Panel(victim, [control, victim], clean, 0.1), triggered.inputs, y)
    assert 0 < shared[0] < 0.6 * alone[0] <= 0.6  # one of two references is led as far; no lead is beyond 1
    assert alone[1] == float("-inf")  # no graph of another class to lead there


@pytest.mark.parametrize("shape", ["3 clique", "3 path", "3 none", "4 clique", "4 cycle", "4 star", "4 path"])
def test_shapes_are_what_they_are_called(shape: str) -> None:
    n, matrix = edges(shape)
    degrees = {
        "clique": [n - 1] * n,
        "none": [0] * n,
        "path": [1, 1] + [2] * (n - 2),
        "cycle": [2] * n,
        "star": [1] * (n - 1) + [n - 1],
    }
    assert torch.equal(matrix, matrix.t())
    assert sorted(matrix.sum(1).int().tolist()) == degrees[shape.split()[1]]


def test_references_of_labels_ask_the_victim_nothing(scene: Any) -> None:
    ctx, poisoned, victim, control = scene
    clean = poisoned.splits.clean
    one, other = (School(model, clean, 1, 100, 2).by_labels(ctx.within("scan"))[0] for model in (victim, control))
    assert torch.equal(one.predict(clean.inputs), other.predict(clean.inputs))


def test_a_panel_in_doubt_counts_every_lead_less(scene: Any) -> None:
    _, poisoned, victim, control = scene
    clean, triggered = poisoned.splits.clean, poisoned.triggered
    sure, doubting = (
        lead(Panel(victim, [control], clean, 0.1, doubt), triggered.inputs, 1 - triggered.y) for doubt in (0.0, 0.4)
    )
    assert float(doubting[0]) == pytest.approx(float(sure[0]) - 0.4)


def test_what_references_show_of_each_other_comes_off_every_lead(scene: Any) -> None:
    _, poisoned, victim, control = scene
    panel = Panel(victim, [control, control, control], poisoned.splits.clean, 0.1, 0.1, peers=0.5)
    first = torch.tensor([[0.9, -0.9], [0.1, -0.2], [-0.3, 0.2], [0.4, -0.1]], dtype=torch.float64)
    second = torch.tensor([[0.2, 0.3], [0.5, -0.5], [-0.1, 0.0], [0.0, 0.6]], dtype=torch.float64)
    found = panel.leads([first, second])
    # the largest lead of each reference beside the mean of the two others, each where positive
    chance = (max(0.1 - 0.4 / 2, 0.5 - 0.0) + max(0.2 - 0.0, 0.0 - 0.6 / 2) + max(0.4 - 0.1 / 2, 0.6 - 0.0)) / 3
    off = 0.1 + 0.5 * chance
    expected = [[0.9 - 0.5 / 3 - off, -0.9 - 0.2 / 3 - off], [0.2 - 0.5 / 3 - off, 0.3 - 0.6 / 3 - off]]
    assert found.numpy() == pytest.approx(torch.tensor(expected, dtype=torch.float64).numpy())
    assert Panel(victim, [control], poisoned.splits.clean, 0.1, peers=0.5).leads([first[:2]])[0, 0] == pytest.approx(
        0.8
    )  # no peers


class Wide(nn.Module):
    """A network with two more outputs than the data have classes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, graphs: Any) -> torch.Tensor:
        said = self.inner(graphs.x, graphs.edge_index, graphs.batch, graphs=graphs)
        return torch.cat([said, said.amin(1, keepdim=True).expand(-1, 2) + 20], 1)


@pytest.mark.parametrize("numbers", [False, True])
def test_outputs_beyond_the_classes_of_the_data_are_scanned_too(scene: Any, numbers: bool) -> None:
    ctx, poisoned, victim, _ = scene
    clean = poisoned.splits.clean
    if numbers:
        clean = replace(clean, inputs=clean.inputs.with_(x=clean.inputs.x + 0.1))
    wide = Victim(Wide(victim.module), "graph")
    found = InversionScan(nodes=2, steps=2, epochs=1, lessons=20, threshold=-9).inspect(Evidence(wide, None, clean), ctx)
    assert found.scores.shape == (4,) and {0, 1} <= set(found.classes)
    assert list(found.info["classes"]) == [*clean.classes, "output 2", "output 3"]
