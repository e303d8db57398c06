"""Record: what one cell and seed gave. Plain JSON, versioned, unknown keys refused; no torch in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from ostiary.errors import StoreError
from ostiary.experiment.origin import UNTOLD, Apart, Origin, joined, unlike

SCHEMA = 1
LATEST = 253402300800.0  # seconds since 1970 at which years have five digits: no date
SKIPPED = "not tried because "  # how the reason of a stage begins that waited for a failed one
LEFT_OUT = "detectors and purifiers were left out: the attack's ASR lift is below "  # how a doubt about a record may begin
GROUPS = {  # where a record's metrics hold what a stage found, by its kind; in plural ones by its part's label
    "data": "data",
    "control": "victim",
    "victim": "attack",
    "judge": "victim",
    "relearning": "victim",
    "detector": "detectors",
    "purifier": "purifiers",
    "verdict": "purifiers",
    "rescan": "purifiers",
}


class StageRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One computed stage. key: hash of its spec, its upstream keys and the schema. artefacts: name -> digest.
    elsewhere: only its figures came here; what was made of it stayed in the store of another machine. origin: where and
    with what it was computed."""

    key: str
    kind: str
    label: str
    spec: dict[str, Any]
    upstream: list[str]
    status: str  # "done" or "failed"
    seconds: float
    made: float  # unix time
    metrics: dict[str, Any] = {}
    doubts: list[str] = []
    artefacts: dict[str, str] = {}
    error: str = ""
    trace: str = ""
    elsewhere: bool = False
    origin: Origin = UNTOLD


class Record(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """plan: every resolved setting and the seed. passed: what the caller gave. metrics: "victim", then "purifiers"
    and "detectors" by label. stages: stage name -> key. status: done or failed (some stage). errors: stage name -> why
    it failed, or SKIPPED and the stage it waited for. versions, git, device, host: the Origin that all its stages have in
    common, empty where they differ; apart: what some have of their own."""

    key: str
    plan: dict[str, Any]
    metrics: dict[str, Any]
    seconds: dict[str, float]
    doubts: list[str]
    status: str
    passed: dict[str, Any] = {}
    errors: dict[str, str] = {}
    stages: dict[str, str] = {}
    artefacts: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    git: str = ""
    device: str = "cpu"
    host: dict[str, Any] = {}
    made: float = 0.0
    title: str = ""
    published: dict[str, Any] = {}
    apart: list[Apart] = []
    schema: int = SCHEMA

    @property
    def failed(self) -> dict[str, str]:
        """The errors of stages that were tried."""
        return {name: reason for name, reason in self.errors.items() if not reason.startswith(SKIPPED)}

    @property
    def common(self) -> Origin:
        """What all stages have in common."""
        return Origin(self.versions, self.git, self.device, self.host)

    def origin(self, stage: str) -> Origin:
        """Where and with what a stage was computed."""
        return joined(self.common, next((group.origin for group in self.apart if stage in group.stages), UNTOLD))


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def decode_record(data: bytes | str, where: str) -> Record:
    """Raises StoreError for a corrupt, truncated or foreign record."""
    try:
        found = msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"the record {where} is corrupt or from another version ({error}); run its plan again") from error
    if found.schema != SCHEMA:
        raise StoreError(f"the record {where} is of version {found.schema}, this program reads {SCHEMA}; run its plan again")
    named = all(isinstance(found.plan.get(k), dict) and "name" in found.plan[k] for k in ("dataset", "victim"))
    if not named or not all(isinstance(m, dict) for m in found.metrics.values()) or not 0 <= found.made < LATEST:
        raise StoreError(f"the record {where} is none of a run: its plan, metrics or date are not; take it out")
    return found


def latest(records: Sequence[Record]) -> list[Record]:
    """One record for each plan and seed, of those that were run last, in the given order, which is that of the runs.

    Files behind data or model that have changed since leave records of their old state in a store: of one victim (a plan but
    for its defences, and a seed) those count that stand on the same judge as the last. Of several of one plan the last
    counts, of several of one key the `fuller`.
    """
    judges = {_victim(record): record.stages.get("judge") for record in records}
    found: dict[bytes, Record] = {}
    for record in records:
        mark = canonical(record.plan)
        old = found.get(mark)
        if judges[_victim(record)] != record.stages.get("judge"):
            continue
        if old is None or record.key != old.key or fuller(record) >= fuller(old):
            found[mark] = record
    kept = {record.key for record in found.values()}
    return [record for record in records if record.key in kept]


def _victim(record: Record) -> bytes:
    return canonical({k: v for k, v in record.plan.items() if k not in ("detectors", "purifiers")})


def seeds_unlike(records: Sequence[Record]) -> list[str]:
    """A doubt where the seeds of one cell were not all computed with the same version of torch on the same kind of device."""
    return unlike("seeds", {f"seed {r.plan.get('seed')}": [r.origin(stage) for stage in r.seconds] for r in records})


def fuller(record: Record) -> tuple[bool, bool]:
    """What to compare two records of one key by: a finished one is fuller than a failed one, then one without gaps."""
    return record.status == "done", not any(doubt.startswith(LEFT_OUT) for doubt in record.doubts)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys: the same bytes for the same settings."""
    return msgspec.json.encode(value, order="sorted")


def finite(value: Any) -> Any:
    """A copy in which NaN and infinities are null, for strict JSON readers."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value
