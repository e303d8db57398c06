"""A plan on nodes, from data to page: the same runner, evaluation and report as for graphs and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ostiary
from ostiary.experiment.plan import Plan
from ostiary.experiment.store import Store

PLAN: dict[str, Any] = {
    "dataset": {"name": "sbm", "nodes": 300, "sizes": [1, 1, 1], "edges": 600, "words": 80, "length": 8, "signal": 0.3},
    "victim": {"name": "gcn", "hidden": 16},
    "attack": {"name": "sba", "features": "gen", "rate": 0.08},
    "trainer": {"epochs": 60},
    "detectors": ["spectral"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    store = tmp_path_factory.mktemp("store")
    return ostiary.run(PLAN, store=store), store


def test_the_run_ends_with_figures(made: tuple[list[Any], Path]) -> None:
    (record,), _ = made
    victim = record.metrics["victim"]
    assert victim["acc"]["value"] > 0.7 and victim["asr_lift"]["value"] > 0.4
    assert victim["stealth"]["nodes_added"] == 3 and 0 <= victim["stealth"]["anomaly_auc"] <= 1
    assert record.metrics["data"]["modality"] == "node" and record.metrics["data"]["parts"]["train"]["nodes"] == 240
    assert 0 <= record.metrics["detectors"]["spectral"]["auroc"] <= 1


def test_the_page_draws_neighbourhoods(made: tuple[list[Any], Path], tmp_path: Path) -> None:
    (record,), store = made
    page = ostiary.write_report([record], store, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "numbers are steps from the node that is judged" in page
    assert page.count("Neighbourhood of a node with its trigger") >= 6
    drawn = json.loads(Store(store).get_object(record.artefacts["judge"]["drawn"]))
    for sample in drawn["samples"]:
        assert sample["nodes"].count(0) == 1 and len(sample["nodes"]) == len(sample["old_nodes"]) + 3
        assert len(sample["added"]) in (3, 4) and sample["removed"] == []


def test_nodes_are_trained_as_one_batch_unless_the_plan_says_otherwise() -> None:
    nodes = Plan(**PLAN).training()
    assert (nodes.epochs, nodes.lr, nodes.schedule, nodes.weight_decay) == (60, 0.01, "constant", 5e-4)
    assert nodes.batch_size > 10**6
    graphs = Plan(**{**PLAN, "dataset": "toy-graphs", "attack": "sub-ba", "trainer": {}}).training()
    assert (graphs.epochs, graphs.lr, graphs.schedule, graphs.batch_size) == (60, 0.005, "step", 64)
