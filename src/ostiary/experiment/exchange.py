"""Results that travel: records as one JSON line each in a file, and stores of several machines brought together."""

from __future__ import annotations

import contextlib
import lzma
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from ostiary.errors import StoreError
from ostiary.experiment.origin import UNLIKE
from ostiary.experiment.record import GROUPS, LEFT_OUT, Record, StageRow, decode_record, encode, fuller
from ostiary.experiment.store import Damaged, Store
from ostiary.writing import whole

LONGEST = 2**24  # bytes of one record: a file of a stranger's must not fill the memory
UNNAMED = {"": ""}  # what was made of a stage of which a bare record names nothing: no store has it


@dataclass
class Merged:
    """What was new: records, and stages with all that was made of them or with their figures alone."""

    records: int = 0
    stages: int = 0
    told: int = 0


def write_records(records: Iterable[Record], path: str | Path, *, bare: bool = False) -> Path:
    """Write one JSON line per record, compressed where the name ends in .xz; the file appears whole or not at all.

    bare: in a quarter less space, without the digests of what the store keeps (a report made of such a file does not say which
    drawings it lacks) and with seconds to a thousandth.
    """
    path = Path(path)
    with whole(path) as part, _opened(path, part, "wb") as file:
        for record in records:
            file.write(encode(_bare(record) if bare else record) + b"\n")
    return path


def _bare(record: Record) -> Record:
    seconds = {stage: round(took, 3) for stage, took in record.seconds.items()}
    return msgspec.structs.replace(record, artefacts={}, seconds=seconds)


def read_records(source: str | Path) -> list[Record]:
    """The records of a store, or of a file that `write_records` wrote. Raises StoreError for anything else."""
    source = Path(source)
    if source.is_dir():
        with Store(source, create=False) as book:
            return book.records()
    with _sentence(source), _opened(source, source, "rb") as file:
        return [_decoded(line, f"in line {i} of {source}") for i, line in enumerate(_lines(file, source), 1)]


def merge(sources: Sequence[str | Path], store: str | Path) -> Merged:
    """Take over into `store`, which is made if need be, what other stores and files of records hold; returns what was new.

    From a store come stages with all that was made of them, and records; from a file records, and of their stages the
    figures: a run then computes such a stage again only where a new stage builds on what was made of it. Of two records
    with one key a finished one is kept rather than a failed one, then one that leaves out nothing, then the one whose models
    are in the store, then the newer. Nothing in the sources is changed.
    """
    found, changed = Merged(), set[str]()
    known = [(s, read_records(s)) for s in map(Path, sources)]  # all are looked at before anything is written
    with Store(store) as book:
        held = {record.key: record for record in book.records()}
        for source, records in known:
            if source.is_dir():
                with Store(source, create=False) as other:
                    found.stages += _copied(other, book)
            for record in records:
                own = held.get(record.key)
                if own is None or _better(record, book) > _better(own, book):
                    book.save_record(record)
                    held[record.key] = record
                    changed.add(record.key)
                for row in stages_told(record):
                    known_here = book.told(row.key)
                    if known_here is None or known_here.status != "done":
                        book.save_stage(row)
                        found.told += 1
    found.records = len(changed)
    return found


def _better(record: Record, book: Store) -> tuple[bool, bool, bool, float]:
    """What to choose one of two records of one key by. Other machines round otherwise, so their models have other digests."""
    finished = {name: key for name, key in record.stages.items() if name in record.seconds}
    rows = {name: book.stage(key) for name, key in finished.items()}
    here = all(row is not None and row.artefacts == record.artefacts.get(name, {}) for name, row in rows.items())
    return *fuller(record), here, record.made


def stages_told(record: Record) -> Iterator[StageRow]:
    """What a record says of its finished stages. The figures of a purifier and of its verdict stand together in the latter."""
    unnamed = {} if record.artefacts else UNNAMED
    for name, key in record.stages.items():
        if name in record.seconds:
            kind, _, label = name.partition(" ")
            metrics, doubts = _said(record, kind, label)
            yield StageRow(
                key,
                kind,
                name,
                spec={},
                upstream=[],
                status="done",
                seconds=record.seconds[name],
                made=record.made,
                metrics=metrics,
                doubts=doubts,
                artefacts=record.artefacts.get(name, unnamed),
                elsewhere=True,
                origin=record.origin(name),
            )


def _said(record: Record, kind: str, label: str) -> tuple[dict[str, Any], list[str]]:
    """The figures and doubts of a stage, from where `assemble` has put them."""
    group = record.metrics.get(GROUPS.get(kind, ""), {})
    if kind == "judge":
        parts = tuple(f"{name.partition(' ')[2]}: " for name in record.stages if " " in name)
        return group, [d for d in record.doubts if not d.startswith((*parts, LEFT_OUT, UNLIKE))]
    if kind == "rescan":
        return {"scans": group.get(label, {}).get("scans", {})}, []
    if kind in ("detector", "verdict"):
        return group.get(label, {}), [d.removeprefix(f"{label}: ") for d in record.doubts if d.startswith(f"{label}: ")]
    if kind == "relearning":
        return {k: v for k, v in group.items() if k == kind}, []
    return group if kind in ("data", "victim") else {}, []  # a purifier's are told with its verdict's


def _copied(other: Store, book: Store) -> int:
    """Copy the finished stages of another store that are whole there and not here; returns how many."""
    n = 0
    for key in other.stage_keys():
        row = other.stage(key)
        if row is None or row.status != "done" or book.stage(key) is not None:
            continue
        try:
            made = [other.get_object(digest) for digest in row.artefacts.values()]
        except Damaged:  # it is computed again here
            continue
        for data in made:
            book.put_object(data)
        book.save_stage(row)
        n += 1
    return n


def _decoded(line: bytes, where: str) -> Record:
    """Raises EOFError for a line that begins as a record and breaks off, which only a file's last can do."""
    try:
        return decode_record(line, where)
    except StoreError as error:
        if line.startswith(b"{") and not line.endswith(b"\n") and type(error.__cause__) is msgspec.DecodeError:
            raise EOFError from error
        raise


def _lines(file: IO[bytes], source: Path) -> Iterator[bytes]:
    while line := file.readline(LONGEST):
        if len(line) == LONGEST:
            raise StoreError(f"{source} has a line of more than {LONGEST >> 20} MiB, which is no record; see ostiary export")
        if line.strip():
            yield line


def _opened(path: Path, place: Path, mode: str) -> IO[bytes]:
    """`place` under the compression that the name of `path` says."""
    if path.suffix != ".xz":
        return open(place, mode)
    preset = None if mode == "rb" else 7 | lzma.PRESET_EXTREME  # looks back over 16 MB, about 300 records
    return lzma.open(place, mode, preset=preset)  # type: ignore[return-value]


@contextlib.contextmanager
def _sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except lzma.LZMAError as error:
        raise StoreError(f"{path} is no file of records ({error}); write one with ostiary export") from error
    except EOFError as error:
        raise StoreError(f"{path} was cut short; fetch it again") from error
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
