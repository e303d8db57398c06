"""The store: one SQLite file (WAL) for stages and records, content-addressed files for what is large.

A stage is visible only once it is whole: its artefacts are renamed into place, then its row is committed. A killed
process leaves at most a temporary file. Several processes may share a store: byte-range locks, which the system drops
with their owner, let one compute a stage while the others wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ostiary.errors import StoreError
from ostiary.experiment.record import Record, StageRow, decode_record, encode

_TABLES = """
create table if not exists stage (key text primary key, kind text, status text, seconds real, made real, body blob) strict;
create table if not exists record (key text primary key, status text, made real, body blob) strict;
create table if not exists metric (record text, part text, name text, value real, low real, high real, n integer,
    primary key (record, part, name)) strict;
"""


class Store:
    """A folder: `ostiary.sqlite`, `objects/`, `locks`."""

    def __init__(self, folder: str | Path, *, create: bool = True) -> None:
        self.folder = Path(folder)
        self.database = self.folder / "ostiary.sqlite"
        if not create and not self.database.exists():
            raise StoreError(f"there is no store in {self.folder}; run a plan first or give --store")
        with _clear(self.folder):
            (self.folder / "objects").mkdir(parents=True, exist_ok=True)
            self._locks = os.open(self.folder / "locks", os.O_RDWR | os.O_CREAT, 0o644)
            self._db = sqlite3.connect(self.database, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")
            self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()
        os.close(self._locks)

    # stages

    def stage(self, key: str) -> StageRow | None:
        """The stage with this key, done or failed, if it is there whole."""
        with _clear(self.folder):
            row = self._db.execute("select body from stage where key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            found = msgspec.json.decode(row[0], type=StageRow)
        except msgspec.DecodeError:
            return None  # a damaged row is computed again
        return found if all(self.object(d).exists() for d in found.artefacts.values()) else None

    def save_stage(self, row: StageRow) -> None:
        body = encode(row)
        with _clear(self.folder):
            self._db.execute(
                "insert or replace into stage values (?, ?, ?, ?, ?, ?)",
                (row.key, row.kind, row.status, row.seconds, row.made, body),
            )

    def forget_failures(self, keys: set[str]) -> None:
        """Failed stages among `keys` are tried again."""
        with _clear(self.folder):
            self._db.executemany("delete from stage where key = ? and status = 'failed'", [(k,) for k in keys])

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Inside, no other process computes this stage; waits for one that does."""
        at = int(key[:12], 16)
        with _clear(self.folder):
            fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, at)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, at)

    # artefacts

    def object(self, digest: str) -> Path:
        return self.folder / "objects" / digest[:2] / digest[2:]

    def put_object(self, data: bytes) -> str:
        """Store bytes under their hash; returns it. The rename makes the file appear whole or not at all."""
        digest = hashlib.blake2b(data, digest_size=20).hexdigest()
        place = self.object(digest)
        if place.exists():
            return digest
        with _clear(self.folder):
            place.parent.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(dir=place.parent, prefix=".part-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, place)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
        return digest

    def get_object(self, digest: str) -> bytes:
        """Raises StoreError where the file is missing or not what it was."""
        with _clear(self.folder):
            data = self.object(digest).read_bytes()
        if hashlib.blake2b(data, digest_size=20).hexdigest() != digest:
            raise StoreError(f"{self.object(digest)} was changed or cut short; remove it and run again")
        return data

    # records

    def save_record(self, record: Record) -> None:
        body = encode(record)
        rows = [(record.key, part, name, *values) for part, name, values in _metrics(record)]
        with _clear(self.folder):
            self._db.execute("begin immediate")
            try:
                self._db.execute("insert or replace into record values (?, ?, ?, ?)", (record.key, record.status, record.made, body))
                self._db.execute("delete from metric where record = ?", (record.key,))
                self._db.executemany("insert into metric values (?, ?, ?, ?, ?, ?, ?)", rows)
                self._db.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise

    def records(self, keys: list[str] | None = None) -> list[Record]:
        """All records, oldest first, or those with the given keys in their order."""
        with _clear(self.folder):
            rows = self._db.execute("select key, body from record order by made, key").fetchall()
        found = {key: body for key, body in rows}
        wanted = list(found) if keys is None else [k for k in keys if k in found]
        return [decode_record(found[k], k[:12]) for k in wanted]


def _metrics(record: Record) -> Iterator[tuple[str, str, tuple[float | None, ...]]]:
    parts = {"victim": record.metrics.get("victim", {})}
    for group in ("purifiers", "detectors"):
        parts |= {f"{group}/{label}": found for label, found in record.metrics.get(group, {}).items()}
    for part, found in parts.items():
        for name, value in found.items():
            if isinstance(value, float):
                yield part, name, (value, None, None, None)
            elif isinstance(value, dict) and "value" in value:
                yield part, name, tuple(value.get(k) for k in ("value", "low", "high", "n"))  # type: ignore[misc]


@contextlib.contextmanager
def _clear(folder: Path) -> Iterator[None]:
    """System errors as one sentence that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            raise StoreError(f"the store {folder} cannot be written ({text}); choose a writable folder with --store") from error
        if "full" in text:
            raise StoreError(f"the disk of {folder} is full; free space and run the same command, finished stages are kept") from error
        raise StoreError(f"the database in {folder} cannot be used ({text}); restore it or choose another --store") from error
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        if error.errno in (28, 122, 27):  # ENOSPC, EDQUOT, EFBIG
            raise StoreError(f"the disk of {folder} is full; free space and run the same command, finished stages are kept") from error
        if error.errno in (13, 30, 1):  # EACCES, EROFS, EPERM
            raise StoreError(f"the store {folder} cannot be written ({error.strerror}); choose a writable folder with --store") from error
        raise StoreError(f"the store {folder} failed: {error.strerror or error}") from error


def now() -> float:
    return time.time()
