"""A plan without an attack: a model, or a data set, that came from outside."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from toy_runs import kinds, watch

from ostiary import cli, run, save_weights, write_report
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.data.toy import ToyGraphs
from ostiary.detectors.base import Detector, Findings
from ostiary.evidence import Evidence
from ostiary.experiment.bench import Bench
from ostiary.experiment.exchange import merge, write_records
from ostiary.experiment.plan import read_plan
from ostiary.experiment.record import Record
from ostiary.experiment.stages import Stage
from ostiary.experiment.store import Store
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.report.scans import accused
from ostiary.report.tables import groups

SCAN = {"name": "inversion-scan", "nodes": 2, "steps": 2, "copies": 1, "lessons": 40, "epochs": 1, "threshold": -100.0}
GIN = {"name": "gin", "hidden": 8, "layers": 2}
PLAN: dict[str, Any] = {
    **{"dataset": {"name": "toy-graphs"}, "victim": GIN, "trainer": {"epochs": 2}, "least_lift": 0.3},
    "detectors": [SCAN, "spectral", "strip"],
    "purifiers": [{"name": "fine-tune", "epochs": 1}, {"name": "subsampling", "samples": 4}],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    store = tmp_path_factory.mktemp("store")
    return store, run(PLAN, store=store)[0]


def test_accuracy_is_judged_and_no_success_of_an_attack(made: tuple[Path, Record]) -> None:
    record = made[1]
    assert not record.errors and record.plan["attack"] is None and not record.metrics["attack"]
    assert not {"control", "relearning"} & {name.partition(" ")[0] for name in record.stages}
    assert set(record.metrics["victim"]) == {"acc", "confusion"}
    tuned = record.metrics["purifiers"]["fine-tune(epochs=1)"]
    assert tuned["drop"]["value"] == pytest.approx(record.metrics["victim"]["acc"]["value"] - tuned["acc"]["value"])
    assert not {"asr", "natural", "der", "reactivated_5"} & set(tuned)
    assert not any("control" in doubt or "ASR" in doubt or "lift" in doubt for doubt in record.doubts)


def test_of_samples_the_flagged_are_counted_and_none_is_called_clean(made: tuple[Path, Record]) -> None:
    found, parts = made[1].metrics["detectors"], made[1].metrics["data"]["parts"]
    assert [metrics["about"] for metrics in found.values()] == ["model", "train", "incoming"]
    for label, metrics in found.items():
        if metrics["about"] == "model":
            assert "found_target" not in metrics and metrics["alarm"] in (0.0, 1.0)
            continue
        assert not {"auroc", "tpr", "fpr"} & set(metrics), label
        if "flagged" in metrics:
            assert metrics["flagged"]["n"] == parts["train" if metrics["about"] == "train" else "test"]["n"]
    assert "flagged" in found["spectral"]


def test_a_scan_looks_again_at_what_purifiers_made_on_inputs_they_have_not_seen(
    made: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purified, scan = made[1].metrics["purifiers"], next(iter(made[1].metrics["detectors"]))
    tuned = purified["fine-tune(epochs=1)"]["scans"][scan]
    assert tuned["inputs"] == made[1].metrics["data"]["parts"]["clean"]["n"] and tuned["score"] is not None
    vote = purified["subsampling(samples=4)"]["scans"][scan]
    assert vote["refused"] and not vote["classes"], "a vote has no gradient"
    lines = accused([made[1]])
    assert [line.partition(" flags")[0] for line in lines[:2]] == [scan, f"{scan} after fine-tune(epochs=1)"]
    assert lines[-1].startswith(f"{scan} after subsampling(samples=4): ")

    shown = []
    splits = build("dataset", PLAN["dataset"]).load(0)
    scanner = type(build("detector", SCAN))
    before = scanner.examine

    def watched(self: Any, evidence: Any, ctx: Any) -> Any:
        shown.append(set(evidence.clean.ids.tolist()))
        return before(self, evidence, ctx)

    monkeypatch.setattr(scanner, "examine", watched)
    run({**PLAN, "detectors": [SCAN], "purifiers": PLAN["purifiers"][:1]}, store=tmp_path / "s")
    assert shown[0] == set(splits.clean.ids.tolist()) and shown[1] <= set(splits.test.ids.tolist())


def test_recovered_triggers_of_flagged_classes_are_tried_on_test_inputs_before_and_after(made: tuple[Path, Record]) -> None:
    record, splits = made[1], build("dataset", PLAN["dataset"]).load(0)
    (scan, found), *_ = record.metrics["detectors"].items()
    with Store(made[0], create=False) as book:
        bench, cell = Bench(book), read_plan(PLAN)[0].cells()[0]
        held = bench.tensors(Stage("detector", cell, cell.plan.detectors[0]), "trials")
        models = {"": bench.victim(Stage("victim", cell))}
        models |= {p.label(): bench.victim(Stage("purifier", cell, p)) for p in cell.plan.purifiers}
    for goal in (0, 1):
        inputs = splits.modality.unpack({k[2:]: v for k, v in held.items() if k.startswith(f"{goal}.")})
        sources = splits.test.take((splits.test.y != goal).nonzero().flatten())
        assert torch.equal(inputs.n_nodes, sources.inputs.n_nodes) and not torch.equal(inputs.x, sources.inputs.x)
        for name, model in models.items():
            told = (record.metrics["purifiers"][name]["scans"][scan] if name else found)["trials"][str(goal)]
            said = model.predict(inputs).argmax(1)
            assert told["value"] == pytest.approx(float((said == goal).double().mean())) and told["n"] == len(sources)
    line = next(line for line in accused([record]) if line.startswith(f"what {scan} recovered for class 1 leads"))
    rates = [found["trials"]["1"]] + [m["scans"][scan]["trials"]["1"] for m in record.metrics["purifiers"].values()]
    assert re.findall(r"[\d.]+(?= %)", line) == [f"{100 * rate['value']:.1f}" for rate in rates]


def test_another_scan_is_another_rescan_and_no_other_model(made: tuple[Path, Record]) -> None:
    other = run({**PLAN, "detectors": [{**SCAN, "steps": 3}]}, store=made[0])[0]
    changed = {name.partition(" ")[0] for name, key in other.stages.items() if made[1].stages.get(name) != key}
    assert changed == {"detector", "rescan"}


def test_the_page_and_the_terminal_say_that_no_attack_is_known(
    made: tuple[Path, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_report([made[1]], made[0], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "names no attack" in page and "attack success" not in page.partition('<section aria-labelledby="table">')[0]
    assert "ASR %</th>" not in page and "as many test inputs" in page and "recovered for class 1 leads" in page
    assert cli.main(["show", "--store", str(made[0]), made[1].key, made[1].key]) == 0
    shown = capsys.readouterr().out
    assert "No attack is named" in shown and "ASR" not in shown and "after fine-tune(epochs=1) flags" in shown


def test_cells_with_and_without_an_attack_stand_beside_each_other(tmp_path: Path) -> None:
    plan = {**PLAN, "detectors": [], "purifiers": [], "vary": {"attack": ["none", {"name": "sub-ba", "size": 2}]}}
    records = run(plan, store=tmp_path / "s")
    assert [r.status for r in records] == ["done", "done"]
    assert [g.name for g in groups(records)] == ["toy-graphs / gin / no attack", "toy-graphs / gin / sub-ba"]
    assert write_report(records, tmp_path / "s", tmp_path / "page.html").exists()


def test_given_weights_are_judged_as_they_are(tmp_path: Path) -> None:
    splits = build("dataset", PLAN["dataset"]).load(0)
    fresh = build("victim", GIN).make(splits.train, 7)
    save_weights(fresh.module, tmp_path / "given.safetensors")
    (tmp_path / "model.py").write_text(
        "from ostiary.component import build\n"
        "def net():\n"
        "    data = build('dataset', 'toy-graphs').load(0).train\n"
        f"    return build('victim', {GIN}).make(data, 0).module\n"
    )
    victim = {
        "name": "file",
        "path": str(tmp_path / "model.py"),
        "maker": "net",
        "weights": str(tmp_path / "given.safetensors"),
    }
    record = run({**PLAN, "victim": victim, "trainer": {"epochs": 0}, "detectors": [], "purifiers": []}, store=tmp_path / "s")[
        0
    ]
    said = fresh.predict(splits.test.inputs).argmax(1)
    assert record.status == "done", record.errors
    assert record.metrics["victim"]["acc"]["value"] == pytest.approx(float((said == splits.test.y).double().mean()))
    assert not any("0 epochs" in doubt for doubt in record.doubts)


def test_scores_of_samples_are_written_with_their_numbers(
    made: tuple[Path, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, splits = tmp_path / "new" / "scores.csv", build("dataset", PLAN["dataset"]).load(0)
    for name, part in (("spectral", splits.train), ("strip", splits.test)):
        assert cli.main(["scores", made[1].key, str(file), "--of", name, "--store", str(made[0])]) == 0
        head, *lines = file.read_text(encoding="utf-8").splitlines()
        assert head == "sample,score,flagged" and sorted(int(line.split(",")[0]) for line in lines) == sorted(part.ids.tolist())
        flagged = sum(int(line.split(",")[2]) for line in lines)
        assert flagged == round(made[1].metrics["detectors"][name]["flagged"]["value"] * len(lines))
    label = next(iter(made[1].metrics["detectors"]))
    assert cli.main(["scores", made[1].key, str(file), "--of", label, "--store", str(made[0])]) == 2
    assert "it has spectral, strip" in capsys.readouterr().err

    attacked = run({**PLAN, "attack": "sub-ba", "detectors": ["strip"], "purifiers": [], "least_lift": 0.0}, store=made[0])[0]
    assert cli.main(["scores", attacked.key, str(file), "--of", "strip", "--store", str(made[0])]) == 0
    head, *lines = file.read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in lines]
    sources = [int(row[0]) for row in rows if row[3] == "1"]
    assert head == "sample,score,flagged,poisoned" and len(sources) == attacked.metrics["attack"]["triggered"]
    assert set(sources) <= set(splits.test.ids.tolist()) and len(rows) == len(splits.test) + len(sources)


def test_a_run_goes_on_from_what_records_tell(made: tuple[Path, Record], tmp_path: Path) -> None:
    merge([write_records([made[1]], tmp_path / "r.jsonl")], tmp_path / "s")
    watch(tmp_path / "s")
    again = run(PLAN, store=tmp_path / "s")[0]
    assert again.metrics == made[1].metrics and not kinds(tmp_path / "s")


@pytest.mark.parametrize("data", ["toy-graphs", "toy-images", "sbm"])
def test_incoming_inputs_bear_no_labels_here_either(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    name = "rigbd" if data == "sbm" else "strip"
    detector = type(build("detector", name))
    before = detector.examine

    def watched(self: Any, evidence: Any, ctx: Any) -> Any:
        shown.append(evidence.incoming)
        return before(self, evidence, ctx)

    monkeypatch.setattr(detector, "examine", watched)
    victim = {"toy-images": {"name": "preact-resnet", "width": 8, "blocks": [1, 1]}, "sbm": {"name": "gcn", "hidden": 8}}
    own: dict[str, Any] = {"name": data, **({"nodes": 120, "edges": 240} if data == "sbm" else {})}
    parts = {"dataset": own, "victim": victim.get(data, GIN), "trainer": {"epochs": 1}}
    record = run({**parts, "detectors": [{"name": name, "on": "incoming"}]}, store=tmp_path / "s")[0]
    assert (
        not record.errors and not bool(shown[0].y.any()) and all("fpr" not in m for m in record.metrics["detectors"].values())
    )
    assert len(shown[0]) == record.metrics["data"]["parts"]["test"]["n"]


class OfModel(Detector, name="scan-with-incoming"):
    """Judges the model, and looks at incoming inputs besides."""

    modalities = frozenset({"graph"})
    needs = frozenset({"victim", "incoming"})
    about = "model"
    seen: ClassVar[list[Any]] = []

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        self.seen.append(evidence.incoming)
        return Findings(torch.zeros(2))


class Asks(Purifier, name="asks-an-input-detector"):
    """Has no incoming inputs, and asks a detector that has."""

    modalities = frozenset({"graph"})

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        build("detector", "strip").findings(evidence, ctx)
        raise AssertionError("it was told of inputs that it does not hold")


def test_nobody_sees_labels_or_scores_of_incoming_inputs_that_are_not_his(tmp_path: Path) -> None:
    plan = {
        **PLAN,
        "attack": "sub-ba",
        "least_lift": 0.0,
        "detectors": ["strip", "scan-with-incoming"],
        "purifiers": ["asks-an-input-detector"],
    }
    OfModel.seen.clear()
    (record,) = run(plan, store=tmp_path)
    (incoming,) = OfModel.seen
    assert not bool(incoming.y.any()) and len(incoming) > record.metrics["data"]["parts"]["test"]["n"]
    assert incoming.ids.tolist() == list(range(len(incoming)))
    assert record.failed == {
        "purifier asks-an-input-detector": "detector 'strip' needs incoming, which was not given or is empty"
    }


def test_no_certificate_is_given_for_test_graphs_of_which_nothing_is_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_way(_: Any, splits: Splits) -> Splits:
        ends = splits.test.inputs.edge_index
        return splits.with_part("test", replace(splits.test, inputs=splits.test.inputs.with_edges(ends[0] < ends[1])))

    monkeypatch.setattr(ToyGraphs, "part", one_way)
    plan = {**PLAN, "detectors": [], "purifiers": ["edge-partition", {"name": "training-partition", "parts": 3}]}
    record = run(plan, store=tmp_path)[0]
    figures = record.metrics["purifiers"]
    assert "acc" in figures["edge-partition"] and "certified" not in figures["edge-partition"]
    assert "certified" in figures["training-partition(parts=3)"], "which does not rest on edges"
    assert [d for d in record.doubts if "no certificate for the test graphs: it takes undirected" in d]
