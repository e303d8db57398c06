"""Rows for people: cells grouped over seeds, before and after purification. Reads records only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ostiary.experiment.record import Record, canonical
from ostiary.metrics.intervals import Estimate, mean

COLUMNS = ("acc", "asr", "natural", "asr_lift", "ra", "drop", "der")
TITLES = {
    "acc": "ACC %",
    "asr": "ASR %",
    "natural": "natural %",
    "asr_lift": "lift",
    "ra": "RA %",
    "drop": "ACC drop",
    "der": "DER",
    "seconds": "seconds",
}
FIGURES = {  # all that may stand beside a paper's
    **TITLES,
    "cad": "CAD",
    "asr_strict": "strict ASR %",
    "asr_candidates": "ASR % of the paper's candidates",
    "asr_strict_candidates": "strict ASR % of the paper's candidates",
    "natural_candidates": "natural % of the paper's candidates",
}
STEALTH = {
    "nodes_added": "nodes added",
    "edges_added": "edges added",
    "edges_removed": "edges removed",
    "degree_change": "degree change",
    "density_change": "density change",
    "clustering_change": "clustering change",
    "psnr": "PSNR dB",
    "linf": "largest change of a pixel",
    "ssim": "SSIM",
    "cross": "cross-trigger ACC %",
    "anomaly_auc": "anomaly AUC",
}
DETECTION = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "tpr_at_fpr_1": "TPR % at FPR 1 %",
    "tpr_at_fpr_5": "TPR % at FPR 5 %",
    "tpr": "TPR %",
    "fpr": "FPR %",
    "flagged": "flagged %",
    "precision": "precision %",
    "f1": "F1",
    "found_target": "target found %",
    "score": "score",
    "alarm": "alarm %",
}
REACTIVATION = {"asr": "ASR %", "reactivated_5": "after 5 triggered samples", "reactivated_20": "after 20"}


@dataclass(frozen=True)
class Group:
    """Records that differ in their seed only."""

    name: str
    plan: dict[str, Any]
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Row:
    """One line: figures over the seeds of a group (value, low, high, n seeds), in the units of the record."""

    group: str
    defence: str
    figures: dict[str, Estimate]


def groups(records: Iterable[Record]) -> list[Group]:
    """Records grouped by everything but the seed, defences included; named by what tells them apart."""
    found: dict[bytes, list[Record]] = {}
    for record in records:
        found.setdefault(canonical({k: v for k, v in record.plan.items() if k != "seed"}), []).append(record)
    called = names([rs[0].plan for rs in found.values()])
    return [Group(name, rs[0].plan, tuple(rs)) for name, rs in zip(called, found.values(), strict=True)]


def names(plans: Sequence[dict[str, Any]]) -> list[str]:
    """What tells each of some plans from the others, in words."""
    return [_name(plan, plans) for plan in plans]


def _name(plan: dict[str, Any], plans: Sequence[dict[str, Any]]) -> str:
    parts = []
    for kind in ("dataset", "victim", "attack"):
        having = [p for p in plans if p[kind]]  # a plan may name no attack
        own, defaults = plan[kind], {p[kind]["name"]: p[kind] for p in having}
        if not own:
            parts += ["no attack"] if having else []
            continue
        base = defaults[own["name"]]
        differs = {k for p in having for k, v in p[kind].items() if p[kind]["name"] == own["name"] and v != base.get(k)}
        others = [p[kind] for p in having if p[kind]["name"] == own["name"]]
        shown = [f"{k}={_apart(own[k], [o.get(k) for o in others])}" for k in own if k in differs]
        if own["name"] == "tu" and "set" not in differs:
            shown.insert(0, own["set"])
        parts.append(own["name"] + (f"({', '.join(shown)})" if shown else ""))
    alike = [p for p in plans if all(p[k] == plan[k] for k in ("dataset", "victim", "attack"))]
    for kind in ("trainer", "detectors", "purifiers"):
        if len({canonical(p.get(kind)) for p in alike}) > 1:
            listed = [part for p in alike for part in (p.get(kind) or ())] if kind != "trainer" else []
            own = plan.get(kind) or []
            told = ", ".join(_apart(part, listed) for part in own) or "none" if listed else short(plan.get(kind))
            parts.append(f"{kind} {told}")
    return " / ".join(parts)


def _apart(value: Any, others: Sequence[Any]) -> str:
    """A setting in a few words; a part by its name and by the options in which others of that name differ."""
    if not isinstance(value, dict) or "name" not in value:
        return short(value)
    same = [o for o in others if isinstance(o, dict) and o.get("name") == value["name"]]
    differ = [k for k in dict.fromkeys(k for o in same for k in o) if any(o.get(k) != value.get(k) for o in same)]
    said = ", ".join(f"{k}={_apart(value[k], [o.get(k) for o in same])}" for k in differ if k in value)
    return f"{value['name']}({said})" if said else str(value["name"])


def short(value: Any) -> str:
    """A setting in a few words: parts by their name."""
    if isinstance(value, dict):
        return str(value.get("name") or ", ".join(f"{k}={short(v)}" for k, v in value.items()) or "as they are")
    if isinstance(value, list):
        return ", ".join(short(v) for v in value) or "none"
    return "none" if value is None else str(value)


def rows(group: Group) -> list[Row]:
    """The victim as it came, then every purifier, also one that failed in all seeds; a figure that none has is left out."""
    done = [r for r in group.records if "acc" in r.metrics.get("victim", {})]
    found = [Row(group.name, "none", _figures([r.metrics["victim"] for r in done], _victim_seconds(done)))]
    labels = dict.fromkeys(label for r in group.records for label in judged(r))
    for label in labels:
        having = [r for r in done if "acc" in r.metrics["purifiers"].get(label, {})]
        seconds = [r.seconds.get(f"purifier {label}", math.nan) for r in having]
        found.append(Row(group.name, label, _figures([r.metrics["purifiers"][label] for r in having], seconds)))
    return found


def _victim_seconds(records: Sequence[Record]) -> list[float]:
    return [r.seconds.get("victim", math.nan) for r in records]


def _figures(metrics: Sequence[dict[str, Any]], seconds: Sequence[float]) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for column in FIGURES:
        held = [m[column] for m in metrics if column in m]
        if not held:
            continue
        found[column] = over_seeds(held)
    if seconds:
        found["seconds"] = mean(seconds)
    return found


def over_seeds(held: Sequence[dict[str, Any]]) -> Estimate:
    """Mean over seeds with its t interval; for one seed the interval of its own counts."""
    if len(held) == 1:
        one = held[0]
        return {"value": _number(one["value"]), "low": _number(one.get("low")), "high": _number(one.get("high")), "n": 1}
    return mean([_number(h["value"]) for h in held])


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def purifiers(record: Record) -> list[str]:
    """The labels of a record's purifiers in the order of its plan, those that failed among them."""
    kinds = (name.partition(" ") for name in record.stages)
    return [label for kind, _, label in kinds if kind == "purifier"]


def united(records: Iterable[Record]) -> list[Record]:
    """One record for each run, victim and attack together, with what all records of it say: plans that list other defences
    for the same run leave a record each."""
    found: dict[str, Record] = {}
    for record in records:
        key = record.stages.get("judge", record.key)
        old = found.get(key)
        if old is None:
            found[key] = record
            continue
        parts = {kind: {**old.metrics.get(kind, {}), **record.metrics.get(kind, {})} for kind in ("detectors", "purifiers")}
        seconds, stages = (
            {**old.seconds, **record.seconds},
            {**record.stages, **old.stages},
        )  # its plan's first
        errors = {name: why for name, why in {**old.errors, **record.errors}.items() if name not in seconds}
        changes = {"metrics": {**record.metrics, **parts}, "seconds": seconds, "stages": stages, "errors": errors}
        found[key] = msgspec.structs.replace(record, **changes)
    return list(found.values())


def judged(record: Record) -> list[str]:
    """Those that have figures, then those that failed: not those left out because the attack did."""
    failed = (name.partition(" ") for name in record.failed)
    return [*record.metrics.get("purifiers", {}), *(label for kind, _, label in failed if kind in ("purifier", "verdict"))]


def detector_rows(group: Group) -> list[Row]:
    """One line per detector: the figures of DETECTION that it has."""
    labels = list(dict.fromkeys(label for r in group.records for label in r.metrics.get("detectors", {})))
    found = []
    for label in labels:
        having = [r.metrics["detectors"][label] for r in group.records if label in r.metrics.get("detectors", {})]
        figures: dict[str, Estimate] = {}
        for name in DETECTION:
            values = [m[name]["value"] if isinstance(m[name], dict) else m[name] for m in having if name in m]
            if values:
                figures[name] = mean([_number(v) for v in values])
        found.append(Row(group.name, label, figures))
    return found


def reactivation_rows(group: Group) -> list[Row]:
    """ASR before and after a little training on triggered samples: every purified model, and one that was always clean."""
    done = [r.metrics for r in group.records if "relearning" in r.metrics.get("victim", {})]
    own = [{**m["victim"]["relearning"], "asr": m["victim"]["natural"]} for m in done if "natural" in m["victim"]]
    labels = list(dict.fromkeys(label for m in done for label in m["purifiers"]))
    judged = [("clean model", own)] + [(p, [m["purifiers"][p] for m in done if p in m["purifiers"]]) for p in labels]
    found = []
    for name, held in judged:
        having = {c: [m[c] for m in held if c in m] for c in REACTIVATION}
        figures = {c: over_seeds(values) for c, values in having.items() if values}
        if len(figures) > 1:
            found.append(Row(group.name, name, figures))
    return found if len(found) > 1 else []


def stealth_rows(group: Group) -> list[Row]:
    """How visible the trigger is, in one line: what it changes, and the AUROC of a detector that saw clean inputs only."""
    having = [r.metrics["victim"]["stealth"] for r in group.records if "stealth" in r.metrics.get("victim", {})]
    names = [n for n in STEALTH if any(n in m for m in having)]
    figures = {n: mean([_number(m.get(n)) for m in having]) for n in names}
    crossed = [r.metrics["victim"]["cross"] for r in group.records if "cross" in r.metrics.get("victim", {})]
    figures |= {"cross": over_seeds(crossed)} if crossed else {}
    return [Row(group.name, "trigger", figures)] if figures else []


def text(name: str, figure: Estimate | None, *, interval: bool = False) -> str:
    """A figure as people read it: percents (or points) with one decimal, seconds as they are."""
    if figure is None or math.isnan(_number(figure["value"])):
        return "-"
    value = float(figure["value"])
    if name == "seconds":
        return f"{value:.1f}"
    if name in ("backdoored", "clean"):
        return f"{value:.0f}"
    if name == "psnr":
        return f"{value:.1f}"
    if name in ("der", "auroc", "auprc", "f1", "score") or (name in STEALTH and name != "cross"):
        return f"{value:.3f}"
    shown = f"{100 * value:z.1f}"
    low, high = _number(figure.get("low")), _number(figure.get("high"))
    if interval and not math.isnan(low):
        floor = -1.0 if name in ("drop", "cad", "asr_lift") else 0.0  # differences may fall below zero
        shown += f" [{100 * max(floor, low):z.1f}, {100 * min(1.0, high):z.1f}]"
    return shown
