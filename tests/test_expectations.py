"""Every method does what its row of expectations says. Trained victims are shared between rows."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from expectations import GRAPHS, GRAPHS3, ROWS, Row, Spec
from ostiary.attacks.base import Poisoned
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.evaluate import Metrics, Outputs, evaluate
from ostiary.evidence import Evidence
from ostiary.explainers.base import Attribution
from ostiary.explainers.fidelity import best_edges, edge_scores, only
from ostiary.metrics.detection import detection
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim

Figures = dict[str, float]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.name}")
def test_figures_stay_within_their_bounds(row: Row) -> None:
    for seed in range(row.tries):
        figures = MEASURE[row.kind](row, seed)
        outside = {name: figures[name] for name, (low, high) in row.bounds.items() if not low <= figures[name] <= high}
        if not outside:
            break
    assert not outside, f"{row.kind} '{row.name}': {outside} outside {dict(row.bounds)}; all: {figures}"


@pytest.mark.parametrize("row", [r for r in ROWS if r.kind != "victim"], ids=lambda row: f"{row.kind}-{row.name}")
def test_bounds_shut_out_a_method_that_does_nothing(row: Row) -> None:
    figure, least = {
        "attack": ("asr_lift", 0.35),
        "detector": ("auroc", 0.6),
        "purifier": ("fall", 0.3),
        "explainer": ("fidelity", 0.15),
    }[row.kind]
    if "found_target" in row.bounds:
        figure, least = "found_target", 1.0
    assert row.bounds[figure][0] >= least


TELLING = [r for r in ROWS if r.kind == "purifier" and r.data not in (GRAPHS, GRAPHS3)]  # on toy graphs it takes the backdoor


@pytest.mark.parametrize("row", TELLING, ids=lambda row: row.name)
def test_bounds_shut_out_plain_fine_tuning(row: Row) -> None:
    figures = purifier(replace(row, name="fine-tune", settings={}))
    assert any(not low <= figures[name] <= high for name, (low, high) in row.bounds.items()), figures


def test_each_method_has_one_row() -> None:
    names = [(row.kind, row.name) for row in ROWS]
    assert len(names) == len(set(names))
    assert len(TELLING) >= 15, "few purifiers are held against fine-tuning"


# one measurement per kind


def attack(row: Row, seed: int = 0) -> Figures:
    metrics, poisoned = _judged(row, row.spec(), seed)
    return {**_values(metrics), "poisoned": float(len(poisoned.index))}


def detector(row: Row, seed: int = 0) -> Figures:
    found, made = backdoored(_key(row.data), _key(row.victim), _key(row.attack), _key(row.trainer))
    splits, marked = made.splits, made.triggered
    mixed = splits.modality.join([splits.test.inputs, marked.inputs])
    n = len(splits.test) + len(marked)
    incoming = replace(splits.test, inputs=mixed, y=torch.zeros(n, dtype=torch.int64), ids=torch.arange(n))
    method = build("detector", row.spec())
    findings = method.inspect(Evidence(found.clone(), splits.train, splits.clean, incoming), _context(row))
    if method.subject() == "model":
        return {"found_target": float(set(marked.y.unique().tolist()) <= set(findings.classes))}
    truth = torch.zeros(len(findings.scores), dtype=torch.bool)
    truth[made.index if method.subject() == "train" else torch.arange(len(splits.test), n)] = True
    return _values(detection(findings.scores, findings.flagged, truth))


def purifier(row: Row, seed: int = 0) -> Figures:
    found, made = backdoored(_key(row.data), _key(row.victim), _key(row.attack), _key(row.trainer))
    before, reference = Outputs.of(found, made), Outputs.of(control(_key(row.data), _key(row.victim), _key(row.trainer)), made)
    evidence = Evidence(found.clone(), made.splits.train, made.splits.clean)
    after = build("purifier", row.spec()).purify(evidence, _context(row))
    figures = _values(evaluate(Outputs.of(after, made), made, reference, before))
    old = _values(evaluate(before, made, reference))["asr"]
    return {**figures, "before": old, "fall": old - figures["asr"]}


def explainer(row: Row, seed: int = 0) -> Figures:
    """Fidelity: confidence lost when the best-scored 30 % of each input go, less what is lost with the worst-scored."""
    found, made = backdoored(_key(row.data), _key(row.victim), _key(row.attack), _key(row.trainer))
    inputs, goal = made.triggered.inputs, made.triggered.y
    scores = build("explainer", row.spec()).explain(found.clone(), inputs, _context(row), goal)

    def confidence(kept: Any) -> float:
        return float(found.predict(kept).softmax(1).gather(1, goal[:, None]).mean())

    without = _without_edges if isinstance(inputs, Graphs) else _without_pixels
    return {"fidelity": confidence(without(inputs, scores, -1)) - confidence(without(inputs, scores, 1))}


def victim(row: Row, seed: int = 0) -> Figures:
    found, splits = control(_key(row.data), _key(row.spec()), _key(row.trainer)), load(_key(row.data))
    said = found.predict(splits.test.inputs).argmax(1)
    return {"acc": float((said == splits.test.y).double().mean())}


MEASURE = {"attack": attack, "detector": detector, "purifier": purifier, "explainer": explainer, "victim": victim}


# what rows share


@functools.cache
def load(data: str, seed: int = 0) -> Splits:
    splits: Splits = build("dataset", json.loads(data)).load(seed)
    return splits


@functools.cache
def control(data: str, net: str, trainer: str, seed: int = 0) -> Victim:
    return _setting(net, trainer, seed).fit(load(data, seed).train)


@functools.cache
def backdoored(data: str, net: str, method: str, trainer: str, seed: int = 0) -> tuple[Victim, Poisoned]:
    splits, ctx, part = load(data, seed), _setting(net, trainer, seed), build("attack", json.loads(method))
    own = ctx.within("attack")
    poisoned = part.poison(splits, own)
    found = ctx.fit(poisoned.splits.train, [poisoned.hook] if poisoned.hook else [])
    return found, part.settle(splits, poisoned, own)


def _setting(net: str, trainer: str, seed: int = 0) -> Context:
    architecture = build("victim", json.loads(net))
    options = {**architecture.recipe, **json.loads(trainer), "name": "trainer"}
    return Context(seed, architecture=architecture, trainer=build("trainer", options))


def _context(row: Row) -> Context:
    return _setting(_key(row.victim), _key(row.trainer)).within(f"{row.kind} {row.name}")


def _judged(row: Row, method: Spec, seed: int) -> tuple[Metrics, Poisoned]:
    found, made = backdoored(_key(row.data), _key(row.victim), _key(method), _key(row.trainer), seed)
    reference = control(_key(row.data), _key(row.victim), _key(row.trainer), seed)
    return evaluate(Outputs.of(found, made), made, Outputs.of(reference, made)), made


def _without_edges(graphs: Graphs, scores: Attribution, sign: int) -> Graphs:
    return only(graphs, ~best_edges(graphs, sign * edge_scores(graphs, scores), share=0.3))


def _without_pixels(images: torch.Tensor, scores: Attribution, sign: int) -> torch.Tensor:
    ranks = (sign * scores.pixels.flatten(1)).argsort(1, descending=True).argsort(1)
    keep = ranks >= 0.3 * ranks.shape[1]
    return images * keep.view(len(images), 1, *images.shape[2:])


def _key(spec: Spec) -> str:
    return json.dumps(dict(spec), sort_keys=True)


def _values(metrics: dict[str, Any]) -> Figures:
    found = {k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in metrics.items()}
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float)}
