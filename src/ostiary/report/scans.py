"""How detectors of models tell backdoored victims from clean ones. Reads records only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

from ostiary.experiment.record import Record
from ostiary.metrics.intervals import Estimate, rate
from ostiary.report.tables import Row, united, unpoisoned
from ostiary.thresholds import EXACT, WORKS

SCANS = {
    "auroc": "AUROC",
    "detected": "backdoored found %",
    "false_alarms": "false alarms %",
    "found_target": "target found %",
    "backdoored": "backdoored",
    "clean": "clean",
}


def scan_rows(records: Iterable[Record]) -> list[Row]:
    """One line per detector that judges models: how it tells victims whose attack works from those with nothing poisoned.
    Empty for a detector that has not seen both kinds."""
    judged = united(r for r in records if "asr_lift" in r.metrics.get("victim", {}))
    poisoned = [r.metrics.get("attack", {}).get("poisoned") for r in judged]
    clean = unpoisoned(judged)
    lifts = [r.metrics["victim"]["asr_lift"]["value"] or math.nan for r in judged]
    taken = [r for r, n, lift in zip(judged, poisoned, lifts, strict=True) if n != 0 and lift >= WORKS - EXACT]
    found = []
    for label in dict.fromkeys(label for r in judged for label in r.metrics.get("detectors", {})):
        bad, good = ([r.metrics["detectors"][label] for r in kind if _scanned(r, label)] for kind in (taken, clean))
        if bad and good:
            figures: dict[str, Estimate] = {
                "auroc": {"value": _auroc([m["score"] for m in bad], [m["score"] for m in good]), "n": len(bad) + len(good)},
                "detected": rate(sum(m["alarm"] > 0 for m in bad), len(bad)),
                "false_alarms": rate(sum(m["alarm"] > 0 for m in good), len(good)),
                "found_target": rate(sum(m["found_target"] > 0 for m in bad), len(bad)),
                **{name: {"value": len(kind), "n": len(kind)} for name, kind in (("backdoored", bad), ("clean", good))},
            }
            found.append(Row("", label, figures))
    return found


def accused(records: Sequence[Record]) -> list[str]:
    """A sentence per detector that judges models: which classes it flags, and in how many of these runs; where no attack is
    known, another for what each purifier made."""
    runs: dict[str, list[tuple[list[str], float | None, str]]] = {}
    refused: dict[str, None] = {}
    for record in records:
        held = record.metrics.get("data", {}).get("classes", [])
        for who, found in _sayings(record):
            if "refused" in found:
                refused[f"{who}: {found['refused']}"] = None
            else:
                most = f", of class {_class(held, found['highest'])}" if "highest" in found and not found["classes"] else ""
                runs.setdefault(who, []).append(([_class(held, c) for c in found["classes"]], found["score"], most))
    return [*(f"{who} flags {_flagged(found)}" for who, found in runs.items()), *_tried(records), *refused]


def _class(names: Sequence[Any], c: int) -> str:
    """Models may have outputs of which the data hold no class."""
    return str(names[c]) if c < len(names) else f"output {c}"


def _tried(records: Sequence[Record]) -> list[str]:
    """How what a scan recovered for each flagged class fares, on the victim and on what each purifier made: means over runs."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for record in records:
        held, purified = record.metrics.get("data", {}).get("classes", []), record.metrics.get("purifiers", {})
        for label, metrics in record.metrics.get("detectors", {}).items():
            for goal, before in metrics.get("trials", {}).items():
                said = found.setdefault((label, _class(held, int(goal))), {"": []})
                said[""].append(before["value"])
                for purifier, after in purified.items():
                    again = after.get("scans", {}).get(label, {}).get("trials", {})
                    said.setdefault(purifier, []).extend([again[goal]["value"]] if goal in again else [])
    lines = []
    for (label, name), said in found.items():
        rates = "; ".join(f"{f'after {who} ' if who else ''}{100 * fmean(v):.1f} %" for who, v in said.items() if v)
        lines.append(f"what {label} recovered for class {name} leads test inputs of other classes there: {rates}")
    return lines


def _flagged(runs: Sequence[tuple[list[str], float | None, str]]) -> str:
    """runs: (classes flagged, score of the most suspicious class, if it is a number, and, unflagged, its name) of each."""
    counts = sorted(Counter(name for names, *_ in runs for name in names).items(), key=lambda c: (-c[1], c[0]))
    if len(runs) == 1:
        score = "" if runs[0][1] is None else f" (highest score {runs[0][1]:.2f}{runs[0][2]})"
        return (" and ".join(f"class {name}" for name, _ in counts) or "no class") + score
    return f"{', '.join(f'class {name} in {n} of {len(runs)}' for name, n in counts) or f'no class in {len(runs)}'} runs"


def _sayings(record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    """(which scan, of what, its findings): of the victim, then of what each purifier made."""
    yield from ((k, m) for k, m in record.metrics.get("detectors", {}).items() if m.get("about") == "model")
    for purifier, metrics in record.metrics.get("purifiers", {}).items():
        yield from ((f"{label} after {purifier}", found) for label, found in metrics.get("scans", {}).items())


def _scanned(record: Record, label: str) -> bool:
    return record.metrics["detectors"].get(label, {}).get("score") is not None


def _auroc(high: Sequence[float], low: Sequence[float]) -> float:
    """The share of pairs in the right order, ties counted half."""
    return sum((h > g) + 0.5 * (h == g) for h in high for g in low) / (len(high) * len(low))
