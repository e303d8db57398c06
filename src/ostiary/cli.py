"""The command line: run, list, options, show, report, export, merge, weights, scores. Torch is imported by `run`, by
`options`, by `weights` and by what is asked for with --plan, whose keys its parts make.

Exit codes: 0 done, 1 some stage failed, 2 nothing could be done (bad input or usage), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.validators import Number

from ostiary import __version__
from ostiary.component import ROOMS, listed, lookup, suggest
from ostiary.console import log
from ostiary.errors import BadSpec, InvalidInput, OstiaryError, StoreError, UnknownName

if TYPE_CHECKING:
    from ostiary.experiment.record import Record
    from ostiary.experiment.store import Store

STORE = Path("ostiary-store")  # as in experiment/runner.py, which imports torch
INTERNAL = ("plan", "trigger", "modality")  # rooms that the overview leaves out

app = App(
    name="ostiary",
    version=__version__,
    help="Finds, measures and removes backdoors in neural networks.\n\n"
    "First steps: ostiary list; ostiary options attack sub-ba; "
    "ostiary run --set dataset=solubility victim=gin attack=sub-ba purifiers=[fine-tune]",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


Flag = Annotated[bool, Parameter(show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """How a command answers.

    Args:
        json: Print one JSON document and nothing else.
        debug: Also print the traceback of an error, on stderr.
    """

    json: Flag = False
    debug: Flag = False


PLAIN = Common()


@app.command
def run(
    plan: str | None = None,
    /,
    *,
    settings: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True)] = None,
    store: Path = STORE,
    workers: Annotated[int, Parameter(validator=Number(gte=0))] = 1,
    device: str = "cpu",
    dry_run: Flag = False,
    quiet: Flag = False,
    common: Common = PLAIN,
) -> int:
    """Run a plan: train, attack, judge, detect, purify, for every seed. Finished stages are reused.

    Without a plan file the settings alone make the plan, for instance:

    ostiary run --set dataset=solubility victim=gin attack=sub-ba attack.rate=0.1 purifiers=[fine-tune] seeds=[0,1,2]

    Args:
        plan: A YAML file of settings.
        settings: One or several option=value, on top of the plan file; an option of a part is written attack.rate=0.1.
        store: Folder that keeps stages and records.
        workers: Processes; 0 for one per core.
        device: Where models run, like cpu or cuda.
        dry_run: Only check the plan and say which runs it has and which of their stages are still to compute.
        quiet: Show no progress.
    """
    _check_settings(plan, settings or [])
    if dry_run:
        return _preview(plan or {}, settings or [], store, common)
    records = _run(plan or {}, settings or [], store, workers, device, quiet or common.json)
    return _ran(records, store, common)


@app.command(name="list")
def list_(room: str | None = None, /, *, common: Common = PLAIN) -> None:
    """List what can be named in a plan: data sets, victims, attacks, detectors, purifiers, ...

    Args:
        room: Only this room, like attacks.
    """
    kinds = [_kind(room)] if room else [k for k in ROOMS if k not in INTERNAL]
    entries = listed(kinds)
    if common.json:
        _print_json([{k: getattr(e, k) for k in ("kind", "name", "summary", "modalities")} for e in entries])
        return
    from ostiary import terminal

    terminal.entries(terminal.console(), entries)


@app.command
def options(room: str, name: str | None = None, /, *, common: Common = PLAIN) -> None:
    """Explain one data set, victim, attack, ... and its options: type, range and default.

    Args:
        room: The room it stands in, like attack.
        name: Its name; may be left out where the room holds only one.
    """
    kind = _kind(room)
    known = [e.name for e in listed([kind])]
    if name is None and len(known) != 1:
        raise BadSpec(f"which {kind}? Give one of {', '.join(known)}")
    from ostiary import terminal

    found = terminal.describe(lookup(kind, name or known[0]))
    if common.json:
        _print_json(found)
    else:
        terminal.options(terminal.console(), found)


@app.command
def show(*keys: str, plan: Path | None = None, store: Path = STORE, common: Common = PLAIN) -> None:
    """Show the records of a store as a table, or one record in detail.

    Args:
        keys: First characters of the keys of the wanted records; all records if left out.
        plan: Only records of this plan as its file stands, under its title and beside the figures that it publishes.
        store: Folder that keeps stages and records.
    """
    records = _shown(store, keys, plan)
    if common.json:
        _print_json(records)
        return
    from ostiary import terminal

    out = terminal.console()
    if not records:
        terminal.say(out, f"the store {store} holds no record yet")
    elif len(records) == 1 and len(keys) == 1:
        terminal.detail(out, records[0])
    else:
        terminal.results(out, records)
        terminal.keys(out, records)


@app.command
def report(
    *keys: str,
    plan: Path | None = None,
    store: Path = STORE,
    output: Path = Path("report.html"),
    figures: Path | None = None,
    tables: Path | None = None,
    common: Common = PLAIN,
) -> None:
    """Write the records of a store as one HTML page with figures.

    Args:
        keys: First characters of the keys of the wanted records; all records if left out.
        plan: Only records of this plan as its file stands, under its title and beside the figures that it publishes.
        store: Folder that keeps stages and records.
        output: The page to write.
        figures: Also save every figure as a file in this folder.
        tables: Also save every table in this folder, as .csv to calculate with and as .tex for a paper.
    """
    records = _shown(store, keys, plan)
    if not records:
        raise StoreError(f"the store {store} holds no record yet; run a plan first or give another --store")
    from ostiary.report.html import save_figures, write_report
    from ostiary.report.spreadsheets import save_tables

    write_report(records, store, output)
    drawn = save_figures(records, store, figures) if figures else []
    written = save_tables(records, tables) if tables else []
    if common.json:
        _print_json({"path": str(output), "figures": [str(f) for f in drawn], "tables": [str(t) for t in written]})
        return
    from ostiary import terminal

    out = terminal.console()
    for path in (output, *drawn, *written):
        terminal.say(out, str(path))


@app.command
def export(
    file: Path, *keys: str, plan: Path | None = None, bare: Flag = False, store: Path = STORE, common: Common = PLAIN
) -> None:
    """Write the records of a store into one file, a JSON line each: to keep, to publish, or to merge on another machine.

    Args:
        file: The file to write; with a name that ends in .xz it is compressed.
        keys: First characters of the keys of the wanted records; all records if left out.
        plan: Only records of this plan as its file stands, under its title and beside the figures that it publishes.
        bare: In less space, without the digests of what the store keeps; a report of it does not name the drawings it lacks.
        store: Folder that keeps stages and records.
    """
    from ostiary.experiment.exchange import write_records

    records = _records(store, keys, plan)
    write_records(records, file, bare=bare)
    _answered({"path": str(file), "records": len(records)}, f"{len(records)} records in {file}", common)


@app.command
def merge(*sources: Path, store: Path = STORE, common: Common = PLAIN) -> None:
    """Bring together what several machines have computed: run different seeds of a plan on each, then merge.

    From stores come stages and records, from exported files records. A run on the merged store computes only what is new.

    Args:
        sources: Stores (folders) and files written by ostiary export; they stay as they are.
        store: Folder to merge into; made if need be.
    """
    from ostiary.experiment.exchange import merge as merged

    if not sources:
        raise BadSpec("which results? Give stores or files: ostiary merge results.jsonl.xz other-store --store merged")
    found = merged(sources, store)
    said = f"new in {store}: {found.records} records, {found.stages} stages with their models, {found.told} by their figures"
    _answered({"records": found.records, "stages": found.stages, "told": found.told}, said, common)


@app.command
def weights(key: str, file: Path, /, *, of: str = "victim", store: Path = STORE, common: Common = PLAIN) -> None:
    """Write a model of a record as a .safetensors file: the victim, or what a purifier made of it.

    What a purifier adds to a model (the layer of npd, the models of a vote) is in the file, too.

    Args:
        key: First characters of the record's key.
        file: The file to write; its name ends in .safetensors.
        of: victim, or a purifier by its name in the record's table.
        store: Folder that keeps stages and records.
    """
    from ostiary.experiment.store import Store
    from ostiary.models.weights import named_safetensors

    file = named_safetensors(file)
    record = _one(key, store)
    held = {name.removeprefix("purifier "): a["weights"] for name, a in record.artefacts.items() if "weights" in a}
    if of not in held:
        raise UnknownName(f"record {record.key[:8]} holds no model '{of}'; it has {', '.join(held)}")
    with contextlib.closing(Store(store, create=False)) as book:
        _check_here(record, "victim" if of == "victim" else f"purifier {of}", book)
        content = book.get_object(held[of])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    _answered({"path": str(file), "of": of}, f"{of} of record {record.key[:8]} in {file}", common)


@app.command
def scores(key: str, file: Path, /, *, of: str, store: Path = STORE, common: Common = PLAIN) -> None:
    """Write what a detector of a record says of every sample as a .csv file: its number in the data set, the score (higher is
    more suspicious), whether it is flagged, and, where the plan names an attack, whether it is poisoned (in use: triggered).

    Args:
        key: First characters of the record's key.
        file: The file to write.
        of: A detector of samples by its name in the record's table.
        store: Folder that keeps stages and records.
    """
    from ostiary.experiment.store import Store

    record = _one(key, store)
    judged = [name for name, metrics in record.metrics["detectors"].items() if metrics["about"] != "model"]
    digest = record.artefacts.get(f"detector {of}", {}).get("scores")
    if of not in judged or digest is None:
        here = ", ".join(judged) or "no detector of samples"
        raise UnknownName(f"record {record.key[:8]} holds no scores of samples by '{of}'; it has {here}")
    with contextlib.closing(Store(store, create=False)) as book:
        _check_here(record, f"detector {of}", book)
        held = book.arrays(digest)
    if "ids" not in held:
        raise StoreError(f"the scores of '{of}' were stored without the numbers of their samples; run the plan in a new store")
    titles = {"ids": "sample", "scores": "score", "flagged": "flagged", "poisoned": "poisoned"}
    if not record.plan["attack"]:  # nobody knows
        del titles["poisoned"]
    found = {title: held[name] for name, title in titles.items() if name in held}
    columns = {title: values.astype(int) if values.dtype == bool else values for title, values in found.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        lines = csv.writer(out)
        lines.writerow(columns)
        lines.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    _answered({"path": str(file), "of": of}, f"{len(held['ids'])} scores by {of} in {file}", common)


def _check_here(record: Record, stage: str, book: Store) -> None:
    """Raises StoreError where only the figures of a stage came here from another store."""
    key = record.stages.get(stage, "")
    row = book.told(key)
    if row is not None and row.elsewhere and book.stage(key) is None:
        raise StoreError(
            f"only the figures of '{stage}' came here; what it made stayed in the store that computed it: merge that store, or "
            "run the plan in a fresh one"
        )


def _one(key: str, store: Path) -> Record:
    """The one record whose key starts so."""
    records = _records(store, (key,), None)
    if len(records) > 1:
        raise UnknownName(f"{len(records)} records in {store} have keys that start with '{key}'; give more characters")
    return records[0]


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command given by `tokens` (or the program's arguments) and return its exit code."""
    words = list(sys.argv[1:] if tokens is None else tokens)
    warnings = _Warnings(logging.WARNING)
    log.addHandler(warnings)
    try:
        code = _answer(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has seen enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        log.removeHandler(warnings)


class _Warnings(logging.Handler):
    """What the library remarks, a line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"ostiary: {record.getMessage()}\n")


def _answer(words: list[str]) -> int:
    try:
        return int(app(words, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt as error:
        return _refuse(words, str(error) or "interrupted", 130)
    except CycloptsError as error:
        return _refuse(words, _usage(error))
    except OstiaryError as error:
        return _refuse(words, str(error))
    except OSError as error:
        return _refuse(words, f"{error.filename} cannot be used: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the user gets a sentence and not a traceback
        hint = "" if "--debug" in words else "; --debug shows where"
        return _refuse(words, f"unexpected {type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}{hint}")


def _answered(document: dict[str, Any], sentence: str, common: Common) -> None:
    if common.json:
        _print_json(document)
        return
    from ostiary import terminal

    terminal.say(terminal.console(), sentence)


def _refuse(words: list[str], sentence: str, code: int = 2) -> int:
    """The sentence on stderr, and as the JSON document where one was asked for."""
    if "--debug" in words:
        sys.stderr.write(traceback.format_exc())
    sys.stderr.write(f"ostiary: {sentence}\n")
    if "--json" in words:
        _print_json({"error": sentence})
    return code


def _usage(error: CycloptsError) -> str:
    """What was wrong with the words of the command line, as one line."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument '{error.unused_tokens[0]}'; ostiary --help shows how commands are written"
    error.verbose = False
    sentence = " ".join(str(error).split())
    if not sentence.endswith("..."):  # a list that was cut short
        sentence = sentence.removesuffix(".")
    return sentence[:1].lower() + sentence[1:]


def _print_json(value: Any) -> None:
    """One strict JSON document (no NaN) on stdout."""
    import msgspec

    from ostiary.experiment.record import encode, finite

    document = msgspec.json.format(encode(finite(msgspec.to_builtins(value))), indent=2)
    sys.stdout.write(document.decode() + "\n")


def _kind(room: str) -> str:
    """The kind behind a room's name, singular or plural."""
    plurals = {"modalities": "modality", **{f"{kind}s": kind for kind in ROOMS}}
    kind = plurals.get(room.lower(), room.lower())
    if kind not in ROOMS:
        raise UnknownName(f"there is no room '{room}'{suggest(room, ROOMS)}")
    return kind


def _check_settings(plan: str | None, settings: list[str]) -> None:
    """Refuse at once, before torch is imported, what can be seen from the words alone."""
    if plan is not None and not Path(plan).exists():
        hint = f"if this is a setting, write --set {plan}" if "=" in plan else "give a YAML file or options with --set"
        raise InvalidInput(f"there is no plan file {plan}; {hint}")
    for setting in settings:
        if setting.endswith((".yaml", ".yml")) and "=" not in setting:
            raise BadSpec(f"'{setting}' is no setting; a plan file goes before --set: ostiary run {setting} --set ...")
        if "=" not in setting:
            raise BadSpec(f"'{setting}' is no setting; write option=value, like attack.rate=0.1")


def _run(plan: str | dict[str, Any], changes: list[str], store: Path, workers: int, device: str, quiet: bool) -> list[Record]:
    """`runner.run` with progress on stderr and nothing on stdout."""
    from ostiary import terminal
    from ostiary.experiment import runner

    try:
        with _stdout_as_stderr(), terminal.progress(off=quiet) as listener:
            return runner.run(plan, changes=changes, store=store, workers=workers, device=device, listener=listener)
    except KeyboardInterrupt:
        how = f"finished stages are kept in {store}, the same command goes on from there"
        raise KeyboardInterrupt(f"interrupted; {how}") from None


def _ran(records: Sequence[Record], store: Path, common: Common) -> int:
    """What came of a run, and its exit code."""
    if common.debug:
        _print_traces(records, store)
    if common.json:
        _print_json(records)
    else:
        from ostiary import terminal

        out = terminal.console()
        terminal.results(out, records)
        terminal.where(out, records, shlex.quote(str(store)))
    return int(any(r.status == "failed" for r in records))


def _preview(plan: str | dict[str, Any], changes: list[str], store: Path, common: Common) -> int:
    """What a run would do, run by run."""
    from ostiary import terminal
    from ostiary.experiment import runner
    from ostiary.report.tables import names

    with _stdout_as_stderr():
        found = runner.preview(plan, changes=changes, store=store)
    specs = [cell.spec() for cell, _ in found.cells]
    named = names([{k: v for k, v in spec.items() if k != "seed"} for spec in specs])
    runs = [{"cell": n, "seed": s["seed"], "left": left} for n, s, (_, left) in zip(named, specs, found.cells, strict=True)]
    if common.json:
        _print_json({"runs": runs, "stages": found.stages, "left": found.left})
    else:
        terminal.preview(terminal.console(), runs, found.stages, found.left)
    return 0


@contextlib.contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """Inside, whatever a library, a user's model or a worker process prints lands on stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _print_traces(records: Sequence[Record], store: Path) -> None:
    """The tracebacks of failed stages, on stderr."""
    from ostiary.experiment.store import Store

    book = Store(store, create=False)
    with contextlib.closing(book):
        rows = {key: book.stage(key) for r in records for name, key in r.stages.items() if name in r.errors}
    for row in rows.values():
        if row is not None:
            sys.stderr.write(f"stage {row.label}, {row.key[:12]}\n{row.trace}\n")


def _shown(store: Path, prefixes: Sequence[str], plan: Path | None) -> list[Record]:
    """As `_records`, but only what is asked for by its key may tell of data or a model as the files were before."""
    from ostiary.experiment.record import latest

    records = _records(store, prefixes, plan)
    return records if prefixes else latest(records)


def _records(store: Path, prefixes: Sequence[str], plan: Path | None) -> list[Record]:
    """The records of a store, oldest first, or those of a plan, or whose keys start with one of the prefixes."""
    from ostiary.experiment.store import Store

    book = Store(store, create=False)
    with contextlib.closing(book):
        records = book.records()
    if plan is not None:
        from ostiary.experiment.selection import of_plan

        records = of_plan(records, plan)
        if not records:
            raise UnknownName(f"no record in {store} is of the plan {plan}; run it, or leave --plan out to see what is there")
    for prefix in prefixes:
        if not any(r.key.startswith(prefix) for r in records):
            where = shlex.quote(str(store))
            raise UnknownName(f"no record in {store} has a key that starts with '{prefix}'; see ostiary show --store {where}")
    return [r for r in records if not prefixes or r.key.startswith(tuple(prefixes))]
