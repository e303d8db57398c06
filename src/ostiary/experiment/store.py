"""The store: one SQLite file (WAL) for stages and records, content-addressed files for what is large.

A stage is visible only once it is whole: its artefacts are renamed into place, then its row is committed. A killed
process leaves at most a temporary file. Several processes and threads may share a store: a lock on a file of its own,
which the system drops with its owner, lets one compute a stage while the others wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from ostiary.console import log, progress
from ostiary.errors import StoreError
from ostiary.experiment.locks import lock, unlock
from ostiary.experiment.record import Record, StageRow, decode_record, encode

SEAL = 10**18  # modification time (ns) of a whole object: while it stands, nobody has touched the bytes since
STALE = 3600.0  # seconds after which a temporary file has lost its writer
_TABLES = """
create table if not exists stage (key text primary key, kind text, status text, seconds real, made real, body blob) strict;
create table if not exists record (key text primary key, status text, made real, body blob) strict;
create table if not exists metric (record text, part text, name text, value real, low real, high real, n integer,
    primary key (record, part, name)) strict;
"""
_DIGEST = re.compile(r"[0-9a-f]{40}")

DATABASE = "ostiary.sqlite"  # its file in a store's folder


class Damaged(StoreError):
    """A stage or artefact that is no longer what it was; computing its stage again replaces it."""


class Store:
    """A folder: `ostiary.sqlite`, `objects/` and, while stages are computed, `claims/`."""

    def __init__(self, folder: str | Path, *, create: bool = True) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise StoreError(f"a store is given by its folder; got {folder!r}")
        self.folder = Path(folder)
        self.database = self.folder / DATABASE
        with _clear(self.folder):
            if not create and not self.database.exists():
                raise StoreError(f"there is no store in {self.folder}; run a plan first or give --store")
            self._refuse_links()
            self._db = self._read_only() if not create and not os.access(self.folder, os.W_OK) else self._open(sweep=create)

    def _refuse_links(self) -> None:
        """A stranger's store must not lead to the user's own files, which would be taken for its parts and removed."""
        for part in (DATABASE, "claims", "objects", "objects/parts"):
            if (self.folder / part).is_symlink():
                raise StoreError(f"{self.folder / part} is a link, which a store must not hold; move or copy the whole store")

    def _open(self, *, sweep: bool) -> sqlite3.Connection:
        for part in ("claims", "objects/parts"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        if sweep:
            _sweep(self.folder / "objects" / "parts")
        db = sqlite3.connect(self.database, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            with self.claim("database"):  # two processes cannot switch a new file to WAL at once
                db.execute("pragma journal_mode=wal")
                db.execute("pragma synchronous=normal")
                db.executescript(_TABLES)
        except BaseException:
            db.close()
            raise
        return db

    def _read_only(self) -> sqlite3.Connection:
        """To show what lies on a disk that cannot be written; without a WAL beside it nobody is writing either."""
        frozen = "" if self.database.with_name(f"{DATABASE}-wal").exists() else "&immutable=1"
        place = f"{self.database.absolute().as_uri()}?mode=ro{frozen}"
        return sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # stages

    def stage(self, key: str) -> StageRow | None:
        """The stage with this key, done or failed, if it is there whole."""
        row = self._row(key)
        return row if row is not None and all(self.whole(d) for d in row.artefacts.values()) else None

    def told(self, key: str) -> StageRow | None:
        """Like `stage`; also a stage of which only the figures came from another store."""
        row = self._row(key)
        return row if row is not None and row.elsewhere else self.stage(key)

    def check_here(self, record: Record, stage: str) -> None:
        """Raises StoreError where only the figures of a record's stage came here from another store."""
        key = record.stages.get(stage, "")
        row = self.told(key)
        if row is not None and row.elsewhere and self.stage(key) is None:
            raise StoreError(
                f"only the figures of '{stage}' came here; what it made stayed in the store that computed it: merge that "
                "store, or run the plan in a fresh one"
            )

    def stage_keys(self) -> list[str]:
        """Of all stages, oldest first."""
        with _clear(self.folder):
            return [key for (key,) in self._db.execute("select key from stage order by made, key")]

    def _row(self, key: str) -> StageRow | None:
        with _clear(self.folder):
            row = self._db.execute("select body from stage where key = ?", (key,)).fetchone()
        try:
            found = msgspec.json.decode(row[0] or b"", type=StageRow) if row else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # a damaged row is computed again
        return found if found is not None and found.key == key else None

    def check(self, key: str) -> None:
        """Read every artefact of a stage; damaged ones are removed, so that the stage is no longer there."""
        row = self._row(key)
        for digest in row.artefacts.values() if row else ():
            with contextlib.suppress(StoreError):
                self.get_object(digest)

    def save_stage(self, row: StageRow) -> None:
        body = encode(row)
        with _clear(self.folder):
            self._db.execute(
                "insert or replace into stage values (?, ?, ?, ?, ?, ?)",
                (row.key, row.kind, row.status, row.seconds, row.made, body),
            )

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Inside, no other process or thread holds this claim; waits for one that does."""
        place = self.folder / "claims" / key
        with _clear(self.folder):
            handle = _lock(place)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                place.unlink()  # before unlocking: whoever waits for it sees that it is gone and starts over; Windows keeps it
            unlock(handle)
            os.close(handle)

    def claimed(self, key: str) -> bool:
        """Whether somebody holds this claim now; not waited for, nothing is taken."""
        with contextlib.suppress(OSError):
            handle = os.open(self.folder / "claims" / key, os.O_RDWR)
            try:
                if not lock(handle, wait=False):
                    return True
                unlock(handle)
            finally:
                os.close(handle)
        return False

    # artefacts

    def object(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"the store {self.folder} names an artefact {digest!r}, which is no digest; run the plan again")
        return self.folder / "objects" / digest[:2] / digest[2:]

    def arrays(self, digest: str) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays of an artefact that is an .npz archive. Raises Damaged, as `get_object`."""
        with np.load(io.BytesIO(self.get_object(digest)), allow_pickle=False) as held:
            return dict(held)

    def whole(self, digest: str) -> bool:
        """Whether an artefact is there as it was stored; read only where its modification time is not the seal."""
        if not _DIGEST.fullmatch(digest):
            return False
        place = self.object(digest)
        try:
            with _clear(self.folder):
                if place.exists() and place.stat().st_mtime_ns == SEAL:
                    return True
            self.get_object(digest)
        except Damaged:
            return False
        with contextlib.suppress(OSError):
            os.utime(place, ns=(SEAL, SEAL))
        return True

    def put_object(self, data: bytes) -> str:
        """Store bytes under their hash; returns it. The rename makes the file appear whole or not at all."""
        digest = _digest(data)
        if self.whole(digest):
            return digest
        place, part = self.object(digest), self.folder / "objects" / "parts" / secrets.token_hex(8)
        with _clear(self.folder):
            place.parent.mkdir(exist_ok=True)
            try:
                with open(part, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.utime(part, ns=(SEAL, SEAL))
                os.replace(part, place)
            except BaseException:
                with contextlib.suppress(OSError):
                    part.unlink()
                raise
        return digest

    def get_object(self, digest: str) -> bytes:
        """Raises Damaged where the file is missing or not what it was; such a file is removed."""
        place = self.object(digest)
        with _clear(self.folder):
            try:
                data = place.read_bytes()
            except FileNotFoundError:
                raise Damaged(f"{place} is missing; run its plan again to make it anew") from None
        if _digest(data) != digest:
            with contextlib.suppress(OSError):
                place.unlink()
            raise Damaged(f"{place} was changed or cut short; run its plan again to make it anew")
        return data

    # records

    def save_record(self, record: Record, run: float | None = None) -> None:
        """run: when a run last told of it (unix time), where not when it was made."""
        row = (record.key, record.status, record.made if run is None else run, encode(record))
        rows = [(record.key, part, name, *values) for part, name, values in _metrics(record)]
        with _clear(self.folder):
            self._db.execute("begin immediate")
            try:
                self._db.execute("insert or replace into record values (?, ?, ?, ?)", row)
                self._db.execute("delete from metric where record = ?", (record.key,))
                self._db.executemany("insert into metric values (?, ?, ?, ?, ?, ?, ?)", rows)
                self._db.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise

    def records(self, keys: list[str] | None = None) -> list[Record]:
        """All records, in the order of the runs that told of them last, or those with the given keys in their order; damaged
        ones are left out with a warning."""
        only = "" if keys is None else f"where key in ({', '.join('?' * len(keys))})"
        with _clear(self.folder):
            rows = self._db.execute(f"select key, body from record {only} order by made, key", keys or ()).fetchall()
        found = dict(rows)
        wanted = list(found) if keys is None else [k for k in keys if k in found]
        whole = (_readable(found[k] or b"", k[:12]) for k in wanted)
        return [record for record in whole if record is not None]


def _readable(body: bytes, where: str) -> Record | None:
    try:
        return decode_record(body, where)
    except StoreError as error:
        log.warning("%s", error)
        return None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def _lock(place: Path) -> int:
    """An open handle with an exclusive lock on the file that bears this name now."""
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not lock(handle, wait=False):
                progress("waiting for another run that works on this", 0.0)
                lock(handle, wait=True)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(place)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _sweep(parts: Path) -> None:
    """Remove what killed processes left half written."""
    for part in parts.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if now() - part.lstat().st_mtime > STALE:
                part.unlink()


def _metrics(record: Record) -> Iterator[tuple[str, str, tuple[float | None, ...]]]:
    parts = {"victim": record.metrics.get("victim", {})}
    for group in ("purifiers", "detectors"):
        parts |= {f"{group}/{label}": found for label, found in record.metrics.get(group, {}).items()}
    for part, found in parts.items():
        for name, value in found.items():
            if isinstance(value, float):
                yield part, name, (value, None, None, None)
            elif isinstance(value, dict) and "value" in value:
                yield part, name, tuple(value.get(k) for k in ("value", "low", "high", "n"))


@contextlib.contextmanager
def _clear(folder: Path) -> Iterator[None]:
    """System errors as one sentence that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(_in_words(folder, str(error))) from error
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(f"the disk of {folder} is full; {_GO_ON}") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StoreError(f"the store {folder} cannot be written ({reason}); {_ELSEWHERE}") from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            raise StoreError(f"the store {folder} is a file, or lies under one; choose a folder with --store") from error
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise StoreError(f"the disk of {folder} has no locks ({reason}); choose a --store on a local disk") from error
        raise StoreError(f"the store {folder} failed: {reason}") from error


_ELSEWHERE = "choose a folder of yours with --store"
_GO_ON = "free space and run the same command, finished stages are kept"


def _in_words(folder: Path, text: str) -> str:
    """What an error of SQLite means for whoever uses the folder."""
    if "readonly" in text or "unable to open" in text:
        return f"the store {folder} cannot be written ({text}); {_ELSEWHERE}"
    if "full" in text:
        return f"the disk of {folder} is full; {_GO_ON}"
    if "disk I/O" in text:
        return f"the disk of {folder} cannot be used ({text}); if it is full or over its quota, {_GO_ON}"
    if "lock" in text:  # "database is locked", "locking protocol"
        return f"another process has kept the database in {folder} busy for a minute; end it and run the same command"
    return f"the database in {folder} cannot be used ({text}); restore it or choose another --store"


def now() -> float:
    return time.time()
