"""What each stage computes. It sees its cell and, through the bench, finished upstream stages."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ostiary import sanity
from ostiary.attacks.base import Poisoned
from ostiary.component import Component, lookup, who
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits, Trial
from ostiary.detectors.base import Detector, Findings
from ostiary.devices import plain_defaults
from ostiary.errors import BrokenContract, InvalidInput, Unsupported
from ostiary.evaluate import Metrics, Outputs, evaluate
from ostiary.evidence import Evidence
from ostiary.experiment.bench import Bench
from ostiary.experiment.plan import Cell
from ostiary.experiment.record import encode, finite
from ostiary.experiment.rescan import rescan, succeed, trials
from ostiary.experiment.stages import Stage
from ostiary.experiment.store import Damaged, now
from ostiary.explainers.grad_cam import GradCAM
from ostiary.metrics.certified import certified
from ostiary.metrics.detection import detection
from ostiary.metrics.intervals import rate
from ostiary.metrics.reactivation import reactivated
from ostiary.metrics.recovery import recovery
from ostiary.metrics.stealth import spaced, stealth
from ostiary.models.victim import Victim
from ostiary.models.votes import ballots
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.certified import Certified
from ostiary.seeds import generator

SHOWN = 300  # inputs per group in the embedding plot
DRAWN = 6  # samples drawn in the report


@dataclass
class Result:
    """borrowed: seconds that another stage took for what this one built on without making it again, less those that judging
    took, which are not the method's."""

    metrics: Metrics = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    artefacts: dict[str, bytes] = field(default_factory=dict)
    borrowed: float = 0.0


@plain_defaults()
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
    net, trainer = stage.cell.plan.control()
    ctx = replace(bench.context(stage.cell), architecture=net, trainer=trainer)
    victim = ctx.fit(bench.splits(stage.cell).train, what="training the clean control", given=True)
    return Result({}, artefacts={"weights": _weights(victim)})


def _victim(stage: Stage, bench: Bench) -> Result:
    splits, ctx, attack = bench.splits(stage.cell), bench.context(stage.cell), stage.cell.plan.attack
    if attack is None:
        return Result({}, artefacts={"weights": _weights(ctx.fit(splits.train, what="training the victim", given=True))})
    own = bench.context(stage.cell, own=True).within("attack")
    mine = Splits(*map(copied, (splits.train, splits.test, splits.clean)))
    poisoned = attack.poison(mine, own)
    kind = type(poisoned.trigger)
    if lookup("trigger", poisoned.trigger.name) is not kind:
        said = f"write class {kind.__name__}({kind.__mro__[1].__name__}, name=...)"  # else it comes back as that base
        raise BrokenContract(f"{who(attack)} made a trigger of the class {kind.__name__}, which has no name of its own; {said}")
    hooks = [poisoned.hook] if poisoned.hook else []
    victim = ctx.fit(poisoned.splits.train, hooks, what="training the victim", given=True)
    poisoned = attack.settle(mine, poisoned, own)
    if mine.fingerprint() != splits.fingerprint():
        raise BrokenContract(f"{who(attack)} changed the data that it was given; let its hook work on copies")
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


def _judge(stage: Stage, bench: Bench) -> Result:
    cell = stage.cell
    poisoned, victim = bench.poisoned(cell), Stage("victim", cell)
    outputs = bench.outputs(victim)
    metrics = evaluate(outputs, poisoned, _reference(cell, bench))
    if not cell.plan.attack:
        doubts = sanity.about_victim(metrics, outputs, poisoned, poisoned.triggered.y)
        return Result(metrics, doubts, {"embedding": _embedding(outputs, poisoned)})
    splits, modality = poisoned.splits, poisoned.splits.modality
    before = splits.test.take(poisoned.rows).inputs
    metrics["stealth"] = stealth(modality, bench.splits(cell).train.inputs, before, poisoned.triggered.inputs)
    stamped = splits.train.take(poisoned.index)
    said = bench.victim(victim).predict(stamped.inputs).argmax(1) if len(stamped) else stamped.y
    doubts = sanity.about_victim(metrics, outputs, poisoned, said, trained=bench.context(cell).trainer.epochs > 0)
    few = spaced(len(poisoned.rows), DRAWN)
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


def _reference(cell: Cell, bench: Bench) -> Outputs:
    """What a clean model says; where no attack is known, and nothing is held against it, what the victim says."""
    return bench.outputs(Stage("control" if cell.plan.attack else "victim", cell))


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


def copied(data: Dataset) -> Dataset:
    """The same in memory of its own: a method that changes what it is given changes no other stage."""
    return replace(data, inputs=_cloned(data.inputs), y=data.y.clone(), ids=data.ids.clone())


def _cloned(value: Any) -> Any:
    """A tensor, or a store of tensors, that shares no memory."""
    if isinstance(value, Tensor):
        return value.clone()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _cloned(getattr(value, f.name)) for f in fields(value)})
    return value


def held(data: Dataset) -> Dataset:
    """A copy of the data as a defender holds them."""
    return copied(replace(data, inputs=data.modality.as_held(data.inputs)))


def _detector(stage: Stage, bench: Bench) -> Result:
    detector, poisoned, cell = stage.part, bench.poisoned(stage.cell), stage.cell
    assert isinstance(detector, Detector)
    splits, victim = poisoned.splits, bench.victim(Stage("victim", cell)).clone()  # whoever changes it changes no other stage
    ctx = bench.context(cell, own=True).within(f"detector {detector.name}")
    incoming, truth, ids = None, torch.zeros(len(splits.train), dtype=torch.bool), splits.train.ids
    truth[poisoned.index] = True
    if "incoming" in detector.needed():
        incoming, order = _mixed(poisoned, cell)
        if detector.subject() == "incoming":
            truth = order >= len(splits.test)
            ids = torch.cat([splits.test.ids, splits.test.ids[poisoned.rows]])[order]
    findings = detector.inspect(Evidence(victim, held(splits.train), copied(splits.clean), incoming), ctx)
    info = {k: v for k, v in findings.info.items() if k != "drawn"}  # drawings are for the report, not for tables
    _json(detector, info, "info")
    found, judging = _recovered(cell, victim, poisoned, findings.trial)
    told = {"info": finite(info), "classes": list(findings.classes), **found}
    metrics: Metrics = {"about": detector.subject(), "measure": detector.measure, **told}
    artefacts = {"drawn": json.dumps(findings.info["drawn"]).encode()} if "drawn" in findings.info else {}
    arrays = {"scores": findings.scores.numpy(), "poisoned": truth.numpy()}
    if detector.subject() == "model":
        if len(poisoned.index):
            metrics["found_target"] = float(set(poisoned.triggered.y.tolist()) <= set(findings.classes))
        alarm, highest = float(len(findings.classes) > 0), int(findings.scores.argmax())
        metrics |= {"score": float(findings.scores.max()), "alarm": alarm, "highest": highest}
        if not cell.plan.attack and (packed := trials(findings, splits.test, victim)):
            metrics["trials"] = succeed(packed, victim, findings.classes)
            artefacts["trials"] = _save(packed)
    else:
        if bool(truth.any()):  # without a poisoned input there is nothing to tell apart
            metrics |= detection(findings.scores, findings.flagged, truth)
        elif findings.flagged is not None:
            metrics["fpr" if cell.plan.attack else "flagged"] = rate(int(findings.flagged.sum()), len(findings.flagged))
        arrays["ids"] = ids.numpy()
        if findings.flagged is not None:
            arrays["flagged"] = findings.flagged.numpy()
    doubts = sanity.about_findings(findings, detector.subject())
    return Result(metrics, doubts, {"scores": _npz(arrays), **artefacts}, -judging)


def _mixed(poisoned: Poisoned, cell: Cell) -> tuple[Dataset, Tensor]:
    """Test inputs and triggered ones as they come in, without labels, and which of both, end to end, each is: int64 [n]."""
    test = poisoned.splits.test
    order = torch.randperm(len(test) + len(poisoned.rows), generator=generator(cell.seed, "incoming"))
    inputs = test.modality.take(test.modality.join([test.inputs, poisoned.triggered.inputs]), order)
    blank = torch.zeros(len(order), dtype=torch.int64)
    return held(replace(test, inputs=inputs, y=blank, ids=torch.arange(len(order)))), order


def _purifier(stage: Stage, bench: Bench) -> Result:
    purifier, cell = stage.part, stage.cell
    assert isinstance(purifier, Purifier)
    poisoned, victim = bench.poisoned(cell), bench.victim(Stage("victim", cell)).clone()  # as above
    peeks = "oracle" in purifier.needed()

    def oracle(candidate: Victim) -> tuple[float, float]:
        found = evaluate(outputs := Outputs.of(candidate, poisoned), poisoned, outputs)
        return found["acc"]["value"], found["asr"]["value"]

    clean = copied(poisoned.splits.clean)
    evidence = Evidence(victim, held(poisoned.splits.train), clean, None, oracle if peeks else None)
    ctx, asked = bench.context(cell, own=True), list[float]()

    def ask(detector: Detector, shown: Evidence) -> Findings | None:
        """What the detector says of this cell, computed with its stage's seeds and taken from there if it is done."""
        parts = [name for name in ("victim", "train", "clean") if shown.has(name)]
        if not evidence.has(*parts) or any(getattr(shown, name) is not getattr(evidence, name) for name in parts):
            return None
        if not shown.has(*detector.needed()):  # such as incoming inputs, which it has not either
            return None
        row = bench.store.stage(Stage("detector", cell, detector).key())
        if row is not None and row.status == "done":
            with contextlib.suppress(Damaged):  # then it is asked again
                found = bench.findings(row)
                asked.append(row.seconds)
                return found
        return detector.inspect(shown, ctx.within(f"detector {detector.name}"))

    cleaned = purifier.purify(evidence, replace(ctx, ask=ask).within(f"purifier {purifier.name}"))
    found, judging = _recovered(cell, victim, poisoned, cleaned.trial)
    _json(purifier, cleaned.notes, "notes")
    _saved(purifier, cleaned, clean, bench.context(cell).fresh(bench.splits(cell).train))
    doubts = ["it chose by its success on the test set (oracle), which no defender can"] if peeks else []
    metrics = {"notes": finite(cleaned.notes), "oracle": peeks, **found}
    return Result(metrics, doubts, {"weights": _weights(cleaned)}, sum(asked) - judging)


def _recovered(cell: Cell, victim: Victim, poisoned: Poisoned, trial: Trial | None) -> tuple[Metrics, float]:
    """Figures of a recovered trigger, where there is an attacker's to compare it with, and the seconds that they took."""
    began = now()
    return (recovery(victim, poisoned, trial) if trial and cell.plan.attack else {}), now() - began


def _json(part: Component, values: dict[str, Any], what: str) -> None:
    """Raises BrokenContract for what no record can hold."""
    for name, value in values.items():
        try:
            encode(finite(value))
        except TypeError:
            said = f"{who(part)} has {type(value).__name__} in its {what} under '{name}'"
            raise BrokenContract(f"{said}, expected what JSON can hold, like .tolist()") from None


def _saved(purifier: Purifier, cleaned: Victim, clean: Dataset, fresh: Victim) -> None:
    """Raises BrokenContract where what is kept of a purified model would be another one."""
    again = purifier.rebuild(fresh).eval()
    try:
        again.module.load_state_dict(cleaned.module.state_dict())
    except RuntimeError:
        raise BrokenContract(
            f"purifier '{purifier.name}' gives weights that rebuild() has no place for; let it add what `cleanse` adds"
        ) from None
    few = clean.take(torch.arange(min(8, len(clean)))).inputs
    if not torch.allclose(again.predict(few), cleaned.predict(few), rtol=1e-3, atol=1e-3):
        raise BrokenContract(
            f"purifier '{purifier.name}' gives a model that is another one after saving; keep what it has learnt in buffers"
        )


def _relearning(stage: Stage, bench: Bench) -> Result:
    """What a model that never had the backdoor does after the same few triggered samples."""
    cell = stage.cell
    clean = bench.victim(Stage("control", cell))
    return Result({"relearning": reactivated(clean, bench.poisoned(cell), bench.context(cell))})


def _verdict(stage: Stage, bench: Bench) -> Result:
    cell, made = stage.cell, Stage("purifier", stage.cell, stage.part)
    poisoned, victim = bench.poisoned(cell), Stage("victim", cell)
    before, outputs = bench.outputs(victim), bench.outputs(made)
    metrics = evaluate(outputs, poisoned, _reference(cell, bench), before)
    if cell.plan.attack:
        metrics |= reactivated(bench.victim(made), poisoned, bench.context(cell))
    test = poisoned.splits.test
    doubts = sanity.about_purified(bench.victim(victim), bench.victim(made), metrics, test)
    if isinstance(stage.part, Certified):
        if why := stage.part.unproven(test.inputs):
            doubts.append(f"no certificate for the test graphs: {why}")
        else:
            metrics["certified"] = certified(stage.part.certify(ballots(outputs.clean), test.inputs), test.y)
    return Result(metrics, doubts, {"embedding": _embedding(outputs, poisoned)})


def _rescan(stage: Stage, bench: Bench) -> Result:
    cell, made = stage.cell, bench.victim(Stage("purifier", stage.cell, stage.part))
    return Result({"scans": {d.label(): rescan(d, made, cell, bench) for d in cell.plan.scans()}})


_COMPUTE: dict[str, Callable[[Stage, Bench], Result]] = {
    "data": _data,
    "control": _control,
    "victim": _victim,
    "judge": _judge,
    "detector": _detector,
    "relearning": _relearning,
    "purifier": _purifier,
    "verdict": _verdict,
    "rescan": _rescan,
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
