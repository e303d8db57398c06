"""What each stage computes, and its key. A stage sees its cell and, through the bench, finished upstream stages."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import ostiary
from ostiary import sanity
from ostiary.attacks.base import Poisoned
from ostiary.component import Component
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.detectors.base import Detector, Findings
from ostiary.errors import InvalidInput, Unsupported
from ostiary.evaluate import Metrics, Outputs, evaluate
from ostiary.evidence import Evidence
from ostiary.experiment.plan import Cell
from ostiary.experiment.record import SCHEMA, StageRow, canonical, finite
from ostiary.experiment.store import Damaged, Store
from ostiary.explainers.grad_cam import GradCAM
from ostiary.metrics.certified import certified
from ostiary.metrics.detection import detection
from ostiary.metrics.intervals import rate
from ostiary.metrics.reactivation import reactivated
from ostiary.metrics.stealth import stealth
from ostiary.models.victim import Victim
from ostiary.models.votes import ballots
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.certified import Certified
from ostiary.seeds import generator
from ostiary.triggers.base import Trigger

SHOWN = 300  # inputs per group in the embedding plot
DRAWN = 6  # samples drawn in the report


@dataclass(frozen=True)
class Stage:
    """kind: data, control, victim, judge, detector, relearning, purifier or verdict; part: the detector or purifier."""

    kind: str
    cell: Cell
    part: Component | None = None

    @property
    def name(self) -> str:
        return self.kind if self.part is None else f"{self.kind} {self.part.label()}"

    def upstream(self) -> list[Stage]:
        """The stages this one reads."""

        def s(kind: str, part: Component | None = None) -> Stage:
            return Stage(kind, self.cell, part)

        return {
            "data": [],
            "control": [s("data")],
            "victim": [s("data")],
            "judge": [s("victim"), s("control")],
            "detector": [s("victim")],
            "relearning": [s("victim"), s("control")],
            "purifier": [s("victim")],
            "verdict": [s("purifier", self.part), s("victim"), s("control")],
        }[self.kind]

    def spec(self) -> dict[str, Any]:
        """Every setting the result depends on beside the upstream stages."""
        plan, (data_files, victim_files) = self.cell.plan, self.cell.files
        if self.kind == "data":
            return {"dataset": plan.dataset.spec(), "files": data_files, "seed": self.cell.seed}
        if self.kind in ("judge", "relearning", "verdict"):
            return {}
        if self.part is not None:
            return {"part": self.part.spec()}
        net = {"victim": plan.victim.spec(), "files": victim_files, "trainer": plan.training().spec()}
        return net if self.kind == "control" else {**net, "attack": plan.attack.spec()}

    def key(self) -> str:
        """A hash of all that the result depends on; kept by the cell for the stages that its parts share."""
        if self.part is not None:
            return self._hash()
        if self.kind not in self.cell.keys:
            self.cell.keys[self.kind] = self._hash()
        return self.cell.keys[self.kind]

    def _hash(self) -> str:
        text = canonical([SCHEMA, ostiary.__version__, self.kind, self.spec(), [u.key() for u in self.upstream()]])
        return hashlib.blake2b(text, digest_size=20).hexdigest()


def stages_of(cell: Cell) -> list[Stage]:
    """All stages of a cell, upstream first."""
    plan = cell.plan
    found = [Stage(kind, cell) for kind in ("data", "control", "victim", "judge")]
    found += [Stage("detector", cell, d) for d in plan.detectors]
    if plan.purifiers:
        found.append(Stage("relearning", cell))
    for purifier in plan.purifiers:
        found += [Stage("purifier", cell, purifier), Stage("verdict", cell, purifier)]
    return found


def record_key(cell: Cell) -> str:
    """The key of the record that tells of a cell: what its stages are makes it, not the plan that asked for them."""
    return hashlib.blake2b(canonical(sorted(s.key() for s in stages_of(cell))), digest_size=20).hexdigest()


@dataclass
class Result:
    """borrowed: seconds that another stage took for what this one built on without making it again."""

    metrics: Metrics = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    artefacts: dict[str, bytes] = field(default_factory=dict)
    borrowed: float = 0.0


class Bench:
    """One process's view of the store: upstream results, loaded once and kept while they are few."""

    def __init__(self, store: Store, device: str = "cpu", keep: int = 8) -> None:
        self.store, self.device, self._keep = store, torch.device(device), keep
        self._held: OrderedDict[str, Any] = OrderedDict()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._held:
            self._held[name] = make()
            while len(self._held) > self._keep:
                self._held.popitem(last=False)
        self._held.move_to_end(name)
        return self._held[name]

    def context(self, cell: Cell) -> Context:
        plan = cell.plan
        return Context(cell.seed, self.device, plan.victim, plan.training())

    def splits(self, cell: Cell) -> Splits:
        key = Stage("data", cell).key()
        return self._once(f"splits {key}", lambda: cell.plan.dataset.load(cell.seed))  # type: ignore[no-any-return]

    def row(self, stage: Stage) -> StageRow:
        row = self.store.stage(stage.key())
        if row is None or row.status != "done":
            raise Damaged(f"stage {stage.name} is missing from the store; run the same command again")
        return row

    def tensors(self, stage: Stage, name: str) -> dict[str, Tensor]:
        return load_tensors(self.store.get_object(self.row(stage).artefacts[name]))

    def victim(self, stage: Stage) -> Victim:
        def make() -> Victim:
            fresh = self.context(stage.cell).fresh(self.splits(stage.cell).train)
            if isinstance(stage.part, Purifier):
                fresh = stage.part.rebuild(fresh)
            fresh.module.load_state_dict(self.tensors(stage, "weights"))
            fresh.eval()
            return fresh

        return self._once(f"victim {stage.key()}", make)  # type: ignore[no-any-return]

    def poisoned(self, cell: Cell) -> Poisoned:
        stage = Stage("victim", cell)
        return self._once(f"poisoned {stage.key()}", lambda: _unpack(self, stage))  # type: ignore[no-any-return]

    def outputs(self, stage: Stage) -> Outputs:
        poisoned = self.poisoned(stage.cell)
        name = f"outputs {stage.key()} {Stage('victim', stage.cell).key()}"
        return self._once(name, lambda: Outputs.of(self.victim(stage), poisoned))  # type: ignore[no-any-return]


def compute(stage: Stage, bench: Bench) -> Result:
    """Run one stage whose upstream is done. Raises Damaged where a result that it builds on cannot be read any more."""
    result = _COMPUTE[stage.kind](stage, bench)
    stage.cell.check_files()
    return result


def _data(stage: Stage, bench: Bench) -> Result:
    splits = bench.splits(stage.cell)
    parts = {"train": splits.train, "test": splits.test, "clean": splits.clean}
    facts = {name: {"n": len(p), "classes": torch.bincount(p.y, minlength=p.n_classes).tolist()} for name, p in parts.items()}
    facts["train"] |= {k: v for k, v in splits.train.describe().items() if isinstance(v, int | float) and k != "classes"}
    found: Metrics = {"parts": facts, "classes": list(splits.train.classes), "modality": splits.modality.name}
    if splits.train.kinds:
        found["node_kinds"] = list(splits.train.kinds)
    return Result({**found, "fingerprint": splits.fingerprint()})


def _control(stage: Stage, bench: Bench) -> Result:
    splits, ctx = bench.splits(stage.cell), bench.context(stage.cell)
    victim = ctx.fit(splits.train, what="training the clean control")
    return Result({}, artefacts={"weights": _weights(victim)})


def _victim(stage: Stage, bench: Bench) -> Result:
    splits, ctx, attack = bench.splits(stage.cell), bench.context(stage.cell), stage.cell.plan.attack
    own = ctx.within("attack")
    poisoned = attack.poison(splits, own)
    hooks = [poisoned.hook] if poisoned.hook else []
    victim = ctx.fit(poisoned.splits.train, hooks, what="training the victim")
    poisoned = attack.settle(splits, poisoned, own)
    spec, tensors = poisoned.trigger.pack()
    modality = splits.modality
    packed = {
        "index": poisoned.index,
        "rows": poisoned.rows,
        "labels": poisoned.splits.train.y[poisoned.index],
        "wanted": poisoned.triggered.y,
        **{f"subset.{k}": v for k, v in poisoned.subsets.items()},
        **{f"trigger.{k}": v for k, v in tensors.items()},
        **{f"train.{k}": v for k, v in modality.pack(poisoned.splits.train.take(poisoned.index).inputs).items()},
        **{f"test.{k}": v for k, v in modality.pack(poisoned.triggered.inputs).items()},
    }
    artefacts = {"weights": _weights(victim), "poison": _save(packed)}
    facts = {"trigger": spec, "poisoned": len(poisoned.index), "triggered": len(poisoned.rows)}
    return Result(facts, list(poisoned.doubts), artefacts)


def _unpack(bench: Bench, stage: Stage) -> Poisoned:
    splits, tensors = bench.splits(stage.cell), bench.tensors(stage, "poison")

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    modality, index, rows = splits.modality, tensors["index"], tensors["rows"]
    train = splits.train.put(index, modality.unpack(under("train."))).relabel(index, tensors["labels"])
    triggered = replace(splits.test.take(rows), inputs=modality.unpack(under("test.")), y=tensors["wanted"])
    trigger = Trigger.unpack(bench.row(stage).metrics["trigger"], under("trigger."))
    return Poisoned(splits.with_part("train", train), index, trigger, triggered, rows, subsets=under("subset."))


def _judge(stage: Stage, bench: Bench) -> Result:
    cell = stage.cell
    poisoned, victim, control = bench.poisoned(cell), Stage("victim", cell), Stage("control", cell)
    outputs, reference = bench.outputs(victim), bench.outputs(control)
    metrics = evaluate(outputs, poisoned, reference)
    splits, modality = poisoned.splits, poisoned.splits.modality
    before = splits.test.take(poisoned.rows).inputs
    metrics["stealth"] = stealth(modality, bench.splits(cell).train.inputs, before, poisoned.triggered.inputs)
    stamped = splits.train.take(poisoned.index)
    said = bench.victim(victim).predict(stamped.inputs)[0].argmax(1) if len(stamped) else stamped.y
    doubts = sanity.about_victim(metrics, outputs, poisoned, said, trained=bench.context(cell).trainer.epochs > 0)
    few = torch.linspace(0, len(poisoned.rows) - 1, min(DRAWN, len(poisoned.rows))).long()  # from all over the set
    drawn = {
        "samples": modality.sketch(modality.take(before, few), modality.take(poisoned.triggered.inputs, few)),
        "true": splits.test.y[poisoned.rows[few]].tolist(),
        "said": outputs.triggered.argmax(1)[few].tolist(),
        "said_before": outputs.clean.argmax(1)[poisoned.rows[few]].tolist(),
        "classes": list(splits.test.classes),
    }
    if modality.name == "image":
        drawn["heat"] = _heat(bench.victim(victim), before[few], poisoned.triggered.inputs[few], bench.context(cell))
    artefacts = {"embedding": _embedding(outputs, poisoned), "drawn": json.dumps(drawn).encode()}
    return Result(metrics, doubts, artefacts)


def _heat(victim: Victim, before: Tensor, after: Tensor, ctx: Context) -> list[list[Any]]:
    """Per image: where the victim looks for the class it says (Grad-CAM, 8-bit, the most 255), without and with trigger."""
    found = []
    for images in (before, after):
        try:
            heat = GradCAM().explain(victim, images, ctx).pixels
        except Unsupported:  # a model without feature maps
            return []
        assert heat is not None
        found.append((255 * heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)).round().int().tolist())
    return [list(pair) for pair in zip(*found, strict=True)]


def _detector(stage: Stage, bench: Bench) -> Result:
    detector, poisoned, cell = stage.part, bench.poisoned(stage.cell), stage.cell
    assert isinstance(detector, Detector)
    splits, victim = poisoned.splits, bench.victim(Stage("victim", cell))
    ctx = bench.context(cell).within(f"detector {detector.name}")
    incoming, truth = splits.test, torch.zeros(len(splits.train), dtype=torch.bool)
    truth[poisoned.index] = True
    if detector.subject() == "incoming":
        mixed = splits.modality.join([splits.test.inputs, poisoned.triggered.inputs])
        order = torch.randperm(len(splits.test) + len(poisoned.rows), generator=generator(cell.seed, "incoming"))
        blank = torch.zeros(len(order), dtype=torch.int64)
        incoming = replace(splits.test, inputs=splits.modality.take(mixed, order), y=blank, ids=torch.arange(len(order)))
        truth = order >= len(splits.test)
    findings = detector.inspect(Evidence(victim, splits.train, splits.clean, incoming), ctx)
    info = {k: v for k, v in findings.info.items() if k != "drawn"}  # drawings are for the report, not for tables
    metrics: Metrics = {"about": detector.subject(), "measure": detector.measure, "info": finite(info)}
    metrics["classes"] = list(findings.classes)
    artefacts = {"drawn": json.dumps(findings.info["drawn"]).encode()} if "drawn" in findings.info else {}
    arrays = {"scores": findings.scores.numpy(), "poisoned": truth.numpy()}
    if detector.subject() == "model":
        aimed = poisoned.triggered.y.unique().tolist()  # type: ignore[no-untyped-call]
        if len(poisoned.index):
            metrics["found_target"] = float(set(aimed) <= set(findings.classes))
        metrics["score"], metrics["alarm"] = float(findings.scores.max()), float(len(findings.classes) > 0)
    else:
        if bool(truth.any()):  # without a poisoned input there is nothing to tell apart
            metrics |= detection(findings.scores, findings.flagged, truth)
        elif findings.flagged is not None:
            metrics["fpr"] = rate(int(findings.flagged.sum()), len(truth))
        if findings.flagged is not None:
            arrays["flagged"] = findings.flagged.numpy()
    return Result(metrics, sanity.about_scores(findings.scores), {"scores": _npz(arrays), **artefacts})


def _purifier(stage: Stage, bench: Bench) -> Result:
    purifier, cell = stage.part, stage.cell
    assert isinstance(purifier, Purifier)
    poisoned, victim = bench.poisoned(cell), bench.victim(Stage("victim", cell))
    peeks = "oracle" in purifier.needed()

    def oracle(candidate: Victim) -> tuple[float, float]:
        found = evaluate(outputs := Outputs.of(candidate, poisoned), poisoned, outputs)
        return found["acc"]["value"], found["asr"]["value"]

    evidence = Evidence(victim, poisoned.splits.train, poisoned.splits.clean, None, oracle if peeks else None)
    ctx, asked = bench.context(cell), list[float]()

    def ask(detector: Detector, shown: Evidence) -> Findings | None:
        """What the detector says of this cell, computed with its stage's seeds and taken from there if it is done."""
        pairs = ((shown.victim, victim), (shown.train, evidence.train), (shown.clean, evidence.clean))
        if any(held is not None and held is not own for held, own in pairs):
            return None
        row = bench.store.stage(Stage("detector", cell, detector).key())
        if row is not None and row.status == "done":
            with contextlib.suppress(Damaged):  # then it is asked again
                found = _findings(row, bench)
                asked.append(row.seconds)
                return found
        return detector.inspect(shown, ctx.within(f"detector {detector.name}"))

    cleaned = purifier.purify(evidence, replace(ctx, ask=ask).within(f"purifier {purifier.name}"))
    doubts = ["it chose by its success on the test set (oracle), which no defender can"] if peeks else []
    return Result({"notes": finite(cleaned.notes), "oracle": peeks}, doubts, {"weights": _weights(cleaned)}, sum(asked))


def _findings(row: StageRow, bench: Bench) -> Findings:
    with np.load(io.BytesIO(bench.store.get_object(row.artefacts["scores"])), allow_pickle=False) as held:
        arrays = {name: torch.from_numpy(held[name]) for name in held.files}
    return Findings(arrays["scores"], arrays.get("flagged"), tuple(row.metrics["classes"]), row.metrics["info"])


def _relearning(stage: Stage, bench: Bench) -> Result:
    """What a model that never had the backdoor does after the same few triggered samples."""
    cell = stage.cell
    clean = bench.victim(Stage("control", cell))
    return Result({"relearning": reactivated(clean, bench.poisoned(cell), bench.context(cell))})


def _verdict(stage: Stage, bench: Bench) -> Result:
    cell, made = stage.cell, Stage("purifier", stage.cell, stage.part)
    poisoned, victim = bench.poisoned(cell), Stage("victim", cell)
    before, control = bench.outputs(victim), bench.outputs(Stage("control", cell))
    outputs = bench.outputs(made)
    metrics = evaluate(outputs, poisoned, control, before) | reactivated(bench.victim(made), poisoned, bench.context(cell))
    if isinstance(stage.part, Certified):
        test = poisoned.splits.test
        metrics["certified"] = certified(stage.part.certify(ballots(outputs.clean), test.inputs), test.y)
    doubts = sanity.about_purified(bench.victim(victim), bench.victim(made), metrics, poisoned.splits.test)
    return Result(metrics, doubts, {"embedding": _embedding(outputs, poisoned)})


_COMPUTE: dict[str, Callable[[Stage, Bench], Result]] = {
    "data": _data,
    "control": _control,
    "victim": _victim,
    "judge": _judge,
    "detector": _detector,
    "relearning": _relearning,
    "purifier": _purifier,
    "verdict": _verdict,
}


def _weights(victim: Victim) -> bytes:
    return _save(victim.module.state_dict())


def _save(tensors: dict[str, Tensor]) -> bytes:
    whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    if any(not bool(torch.isfinite(v).all()) for v in whole.values() if v.is_floating_point()):
        raise InvalidInput("the result holds NaN or infinite values; lower the learning rate")
    return save_tensors(whole)


def _embedding(outputs: Outputs, poisoned: Poisoned) -> bytes:
    """Features, true labels and predictions of at most SHOWN clean and SHOWN triggered inputs."""
    test = poisoned.splits.test
    clean, triggered = torch.arange(min(SHOWN, len(test))), torch.arange(min(SHOWN, len(poisoned.rows)))
    return _npz(
        {
            "clean": outputs.clean_features[clean].float().numpy(),
            "clean_y": test.y[clean].numpy(),
            "clean_said": outputs.clean.argmax(1)[clean].numpy(),
            "triggered": outputs.triggered_features[triggered].float().numpy(),
            "triggered_y": test.y[poisoned.rows[triggered]].numpy(),
            "triggered_said": outputs.triggered.argmax(1)[triggered].numpy(),
            "wanted": poisoned.triggered.y[triggered].numpy(),
        }
    )


def _npz(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
