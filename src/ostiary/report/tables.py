"""Rows for people: cells grouped over seeds, before and after purification. Reads records only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from ostiary.experiment.record import Record, canonical
from ostiary.metrics.intervals import Estimate, averaged, difference, mean, rate
from ostiary.thresholds import EXACT

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
RECOVERY = {
    "recovered_asr": "ASR % of the recovered trigger",
    "recovered_similarity": "its similarity to the attacker's",
    "source_similarity": "similarity without a trigger",
}
COSINES = ("recovered_similarity", "source_similarity")
FIGURES = {  # all that may stand beside a paper's
    **TITLES,
    "cad": "CAD",
    "asr_strict": "strict ASR %",
    "asr_candidates": "ASR % of the paper's candidates",
    "asr_strict_candidates": "strict ASR % of the paper's candidates",
    "natural_candidates": "natural % of the paper's candidates",
    **{name: RECOVERY[name] for name in ("recovered_asr", "recovered_similarity")},
}
UNSCALED = ("der", "seconds", *COSINES)  # of these, what papers do not print in percent
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
LONGEST = 80  # letters of a name that tell detectors or purifiers
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
    called = names([labelled(rs[0]) for rs in found.values()])
    return [Group(name, rs[0].plan, tuple(rs)) for name, rs in zip(called, found.values(), strict=True)]


def labelled(record: Record) -> dict[str, Any]:
    """The plan of a record with its detectors and purifiers as the labels that its rows go by."""
    held = {kind: len(record.plan.get(kind) or ()) for kind in ("detectors", "purifiers")}
    told = {kind: _labels(record, kind.removesuffix("s"))[:n] for kind, n in held.items()}  # united: its own plan's come first
    return {**record.plan, **{kind: own for kind, own in told.items() if len(own) == held[kind]}}


def names(plans: Sequence[dict[str, Any]]) -> list[str]:
    """What tells each of some plans from the others, in words; plans that differ never have one name.

    Detectors and purifiers of a plan may be listed by their labels."""
    apart = {canonical(plan): plan for plan in plans}
    called = {key: _name(plan, list(apart.values())) for key, plan in apart.items()}
    count, seen = Counter(called.values()), Counter[str]()
    for key, name in called.items():
        seen[name] += 1
        called[key] = name if count[name] == 1 else f"{name} (no. {seen[name]})"
    return [called[canonical(plan)] for plan in plans]


def _name(plan: dict[str, Any], plans: Sequence[dict[str, Any]]) -> str:
    parts = []
    for kind in ("dataset", "victim", "attack"):
        having = [p[kind] for p in plans if p[kind]]  # a plan may name no attack
        own = plan[kind]
        if not own:
            parts += ["no attack"] if having else []
            continue
        tu = own["name"] == "tu"  # its set is told first, and always
        shown = _differing({"set": own["set"], **own} if tu else own, [o for o in having if o["name"] == own["name"]])
        if tu and shown[:1] != [f"set={own['set']}"]:
            shown.insert(0, own["set"])
        parts.append(own["name"] + (f"({', '.join(shown)})" if shown else ""))
    alike = [p for p in plans if all(p[k] == plan[k] for k in ("dataset", "victim", "attack"))]
    for kind in ("trainer", "detectors", "purifiers"):
        if len({canonical(p.get(kind)) for p in alike}) > 1:
            others = [[short(part) for part in p.get(kind) or ()] for p in alike]
            own = [short(part) for part in plan.get(kind) or ()]
            parts.append(f"{kind} {short(plan.get(kind)) if kind == 'trainer' else _listed(own, others)}")
            alike = [p for p in alike if p.get(kind) == plan.get(kind)]
    return " / ".join(parts)


def _differing(own: dict[str, Any], others: Sequence[dict[str, Any]]) -> list[str]:
    """The options that tell a part from others of its name, but those that go with one that is told already."""
    shown, rest = [], others
    for key, value in own.items():
        if any(other.get(key) != value for other in rest):
            shown.append(f"{key}={_apart(value, [other.get(key) for other in others])}")
            rest = [other for other in rest if other.get(key) == value]
    return shown


def _listed(own: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    """Those of some labels that not all other lists have, the rarest first, in at most LONGEST letters."""
    count = Counter(label for other in others for label in set(other))
    told = sorted((label for label in own if count[label] < len(others)), key=lambda label: count[label])
    if not told:
        return "none of its own" if own else "none"
    brief = [label if len(label) <= LONGEST else f"{label.partition('(')[0]}(...)" for label in told]
    fit = max(1, sum(total <= LONGEST for total in accumulate(len(label) + 2 for label in brief)))
    return ", ".join(brief[:fit]) + (f" and {len(told) - fit} more" if len(told) > fit else "")


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
        return str(value.get("name") or ", ".join(f"{k}={short(v)}" for k, v in value.items()) or "as by default")
    if isinstance(value, list):
        return ", ".join(short(v) for v in value) or "none"
    return "none" if value is None else str(value)


def rows(group: Group) -> list[Row]:
    """The victim as it came, then every purifier, also one that failed in all seeds; a figure that none has is left out."""
    done = [r for r in group.records if "acc" in r.metrics.get("victim", {})]
    found = [Row(group.name, "none", _figures([_bounded(r.metrics["victim"]) for r in done], _victim_seconds(done)))]
    labels = dict.fromkeys(label for r in group.records for label in judged(r))
    for label in labels:
        having = [r for r in done if "acc" in r.metrics["purifiers"].get(label, {})]
        seconds = [r.seconds.get(f"purifier {label}", math.nan) for r in having]
        models = [_bounded(r.metrics["purifiers"][label], r.metrics["victim"]) for r in having]
        found.append(Row(group.name, label, _figures(models, seconds)))
    return found


def _victim_seconds(records: Sequence[Record]) -> list[float]:
    return [r.seconds.get("victim", math.nan) for r in records]


def _bounded(metrics: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """A model's metrics with ends for differences of rates that were recorded without: those of the rates, as if independent.

    before: of the victim that a purifier was given. A DER takes its ends from what ASR and accuracy fell by."""
    was = before or {}
    less = {"asr_lift": (metrics, "asr", metrics, "natural"), "cad": (metrics, "control_acc", metrics, "acc")}
    less |= {"drop": (was, "acc", metrics, "acc"), "fell": (was, "asr", metrics, "asr")}
    parts = {name: (one.get(k, {}), other.get(j, {})) for name, (one, k, other, j) in less.items()}
    found = {name: difference(*pair) for name, pair in parts.items() if all(map(_closed, pair))}
    found |= {name: metrics[name] for name in less if _closed(metrics.get(name, {}))}
    if "fell" in found and "drop" in found:
        fell, drop = ({k: max(0, v) for k, v in found[name].items()} for name in ("fell", "drop"))  # DER forgives gains
        found["der"] = {k: v if k == "n" else (1 + v) / 2 for k, v in difference(fell, drop).items()}
    open_ = [k for k in found if k in metrics and not _closed(metrics[k])]
    return {**metrics, **{k: {**metrics[k], "low": found[k]["low"], "high": found[k]["high"]} for k in open_}}


def _closed(figure: dict[str, Any]) -> bool:
    return not any(math.isnan(_number(figure.get(end))) for end in ("value", "low", "high"))


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
    """Mean over seeds with its t interval, or that of the counts of each seed where it is wider: seeds that agree by chance,
    as at 0 and 100 %, prove no more than their inputs do, and without counts nothing: NaN. For one seed the interval of its
    own counts."""
    told = [{"value": _number(h["value"]), "low": _number(h.get("low")), "high": _number(h.get("high")), "n": 1} for h in held]
    if len(told) == 1:
        return told[0]
    found = mean([h["value"] for h in told])
    counted = averaged([h for h in told if not math.isnan(h["value"])]) if found["n"] else found
    if found["n"] > 1 and not math.isnan(counted["low"]):
        found |= {"low": min(found["low"], counted["low"]), "high": max(found["high"], counted["high"])}
    elif found["sd"] <= EXACT:
        found |= {"low": math.nan, "high": math.nan}
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def purifiers(record: Record) -> list[str]:
    """The labels of a record's purifiers in the order of its plan, those that failed among them."""
    return _labels(record, "purifier")


def _labels(record: Record, of: str) -> list[str]:
    kinds = (name.partition(" ") for name in record.stages)
    return [label for kind, _, label in kinds if kind == of]


def united(records: Iterable[Record], of: str = "judge") -> list[Record]:
    """One record for each run, victim and attack together, with what all records of it say: plans that list other defences
    for the same run leave a record each. of: the stage that tells what is one."""
    found: dict[str, Record] = {}
    for record in records:
        key = record.stages.get(of, record.key)
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


def unpoisoned(judged: Iterable[Record]) -> list[Record]:
    """The clean models among victims, each once: with nothing poisoned, attacks only differ in what is asked of it."""
    return united((r for r in judged if r.metrics.get("attack", {}).get("poisoned") == 0), "control")


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
        held = {name: [m[name] for m in having if name in m] for name in DETECTION}
        figures = {name: _detection(name, values) for name, values in held.items() if values}
        found.append(Row(group.name, label, figures))
    return found


def _detection(name: str, values: Sequence[Any]) -> Estimate:
    if name in ("alarm", "found_target"):  # yes or no
        return rate(sum(v > 0 for v in values), len(values))
    return over_seeds([v if isinstance(v, dict) else {"value": v} for v in values])


def reactivation_rows(group: Group) -> list[Row]:
    """ASR before and after a little training on triggered samples: every purified model, and one that was always clean; each
    over the seeds that have all of these figures."""
    done = [r.metrics for r in group.records if "relearning" in r.metrics.get("victim", {})]
    own = [{**m["victim"]["relearning"], "asr": m["victim"]["natural"]} for m in done if "natural" in m["victim"]]
    labels = list(dict.fromkeys(label for m in done for label in m["purifiers"]))
    judged = [("clean model", own)] + [(p, [m["purifiers"][p] for m in done if p in m["purifiers"]]) for p in labels]
    told = [c for c in REACTIVATION if any(c in m for _, held in judged for m in held)]  # a small test set has no 20 to spare
    found = []
    for name, held in judged:
        having = [m for m in held if all(c in m for c in told)]
        if having and len(told) > 1:
            found.append(Row(group.name, name, {c: over_seeds([m[c] for m in having]) for c in told}))
    return found if len(found) > 1 else []


def recovery_rows(group: Group) -> list[Row]:
    """One line per defence that recovered a trigger: how it does, and how near to the attacker's it comes."""
    found = []
    for kind in ("detectors", "purifiers"):
        held = [r.metrics.get(kind, {}) for r in group.records]
        for label in dict.fromkeys(label for m in held for label in m):
            having = [m[label] for m in held if "recovered_asr" in m.get(label, {})]
            figures = {name: over_seeds([m[name] for m in having]) for name in RECOVERY if having}
            found += [Row(group.name, label, figures)] if having else []
    return found


def stealth_rows(group: Group) -> list[Row]:
    """How visible the trigger is, in one line: what it changes, and the AUROC of a detector that saw clean inputs only."""
    having = [r.metrics["victim"]["stealth"] for r in group.records if "stealth" in r.metrics.get("victim", {})]
    names = [n for n in STEALTH if any(n in m for m in having)]
    figures = {n: mean([_number(m.get(n)) for m in having]) for n in names}
    crossed = [r.metrics["victim"]["cross"] for r in group.records if "cross" in r.metrics.get("victim", {})]
    figures |= {"cross": over_seeds(crossed)} if crossed else {}
    return [Row(group.name, "trigger", figures)] if figures else []


def seeds(row: Row) -> int:
    """How many seeds a row stands on."""
    return max((int(f["n"]) for name, f in row.figures.items() if name != "seconds"), default=0)


def cell(name: str, row: Row, *, interval: bool = False) -> str:
    """A figure of a row as people read it; where not all of the row's seeds have it, by how many."""
    return text(name, row.figures.get(name), interval=interval) + few(name, row)


def few(name: str, row: Row) -> str:
    """By how many of the row's seeds a figure is, where not by all."""
    figure, n = row.figures.get(name), seeds(row)
    told = figure is not None and not math.isnan(_number(figure["value"])) and int(figure["n"]) < n
    return f" ({figure['n']} of {n})" if figure is not None and told else ""


def ends(name: str, figure: Estimate | None) -> tuple[float, float] | None:
    """Of the 95 % interval, if there is one; of shares cut to what is possible: that of two seeds may be wider."""
    low, high = (math.nan if figure is None else _number(figure.get(end)) for end in ("low", "high"))
    if name == "seconds" or math.isnan(low + high):
        return None
    if name == "score" or (name in STEALTH and name not in ("cross", "ssim", "anomaly_auc")):
        return low, high
    least = -1.0 if name in ("drop", "cad", "asr_lift", "clean_drop", *COSINES) else 0.0  # differences may fall below zero
    return max(least, low), min(1.0, high)


def text(name: str, figure: Estimate | None, *, interval: bool = False) -> str:
    """A figure as people read it: percents (or points) with one decimal, seconds as they are. interval: with its ends."""
    if figure is None or math.isnan(_number(figure["value"])):
        return "-"
    shown, limits = _shown(name, float(figure["value"])), ends(name, figure) if interval else None
    return shown if limits is None else f"{shown} [{', '.join(_shown(name, end) for end in limits)}]"


def _shown(name: str, value: float) -> str:
    if name in ("seconds", "psnr"):
        return f"{value:.1f}"
    if name in ("backdoored", "clean"):
        return f"{value:.0f}"
    if name in ("der", "auroc", "auprc", "f1", "score", *COSINES) or (name in STEALTH and name != "cross"):
        return f"{value:.3f}"
    return f"{100 * value:z.1f}"
