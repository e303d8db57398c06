"""The commands. Torch is imported by `run`, by `options`, by `weights`, by `data` and by what is asked for with --plan, whose
keys its parts make."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from ostiary import __version__
from ostiary.cli.answers import PLAIN, Common, Flag, answered, print_json, stdout_as_stderr
from ostiary.cli.records import one, records_of, shown
from ostiary.cli.running import carried_out, check_settings, preview, ran
from ostiary.component import ROOMS, listed, lookup, suggest
from ostiary.errors import BadSpec, StoreError, UnknownName

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
    check_settings(plan, settings or [])
    if dry_run:
        return preview(plan or {}, settings or [], store, common)
    records = carried_out(plan or {}, settings or [], store, workers, device, quiet or common.json)
    return ran(records, store, common)


@app.command(name="list")
def list_(room: str | None = None, /, *, common: Common = PLAIN) -> None:
    """List what can be named in a plan: data sets, victims, attacks, detectors, purifiers, ...

    Args:
        room: Only this room, like attacks.
    """
    kinds = [_kind(room)] if room else [k for k in ROOMS if k not in INTERNAL]
    entries = listed(kinds)
    if common.json:
        print_json([{k: getattr(e, k) for k in ("kind", "name", "summary", "modalities")} for e in entries])
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
        print_json(found)
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
    records = shown(store, keys, plan)
    if common.json:
        print_json(records)
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
    records = shown(store, keys, plan)
    if not records:
        raise StoreError(f"the store {store} holds no record yet; run a plan first or give another --store")
    from ostiary.report.html import save_figures, write_report
    from ostiary.report.spreadsheets import save_tables

    write_report(records, store, output)
    drawn = save_figures(records, store, figures) if figures else []
    written = save_tables(records, tables) if tables else []
    if common.json:
        print_json({"path": str(output), "figures": [str(f) for f in drawn], "tables": [str(t) for t in written]})
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

    records = records_of(store, keys, plan)
    write_records(records, file, bare=bare)
    answered({"path": str(file), "records": len(records)}, f"{len(records)} records in {file}", common)


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
    answered({"records": found.records, "stages": found.stages, "told": found.told}, said, common)


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
    from ostiary.writing import whole

    file = named_safetensors(file)
    record = one(key, store)
    held = {name.removeprefix("purifier "): a["weights"] for name, a in record.artefacts.items() if "weights" in a}
    if of not in held:
        raise UnknownName(f"record {record.key[:8]} holds no model '{of}'; it has {', '.join(held)}")
    with contextlib.closing(Store(store, create=False)) as book:
        book.check_here(record, "victim" if of == "victim" else f"purifier {of}")
        content = book.get_object(held[of])
    with whole(file) as part:
        part.write_bytes(content)
    answered({"path": str(file), "of": of}, f"{of} of record {record.key[:8]} in {file}", common)


@app.command
def data(
    key: str, file: Path, /, *, of: str = "train", trust: Flag = False, store: Path = STORE, common: Common = PLAIN
) -> None:
    """Write the samples of a record for other tools: images as .npz, which the data set npz reads, or any as .safetensors.

    Args:
        key: First characters of the record's key.
        file: The file to write; its name ends in .npz or .safetensors.
        of: train (as poisoned, with a mask of what is and the true labels), triggered (test inputs with the trigger on, with
            the labels that the attacker wants), test, or clean (the defender's).
        trust: Run the Python file, or read the pickles, that the record's data set comes from.
        store: Folder that keeps stages and records.
    """
    from ostiary.experiment.samples import write_data

    record = one(key, store)
    with stdout_as_stderr():
        path = write_data(record, store, file, of=of, trust=trust)
    answered({"path": str(path), "of": of}, f"{of} of record {record.key[:8]} in {path}", common)


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
    from ostiary.writing import whole

    record = one(key, store)
    judged = [name for name, metrics in record.metrics["detectors"].items() if metrics["about"] != "model"]
    digest = record.artefacts.get(f"detector {of}", {}).get("scores")
    if of not in judged or digest is None:
        here = ", ".join(judged) or "no detector of samples"
        raise UnknownName(f"record {record.key[:8]} holds no scores of samples by '{of}'; it has {here}")
    with contextlib.closing(Store(store, create=False)) as book:
        book.check_here(record, f"detector {of}")
        held = book.arrays(digest)
    if "ids" not in held:
        raise StoreError(f"the scores of '{of}' were stored without the numbers of their samples; run the plan in a new store")
    titles = {"ids": "sample", "scores": "score", "flagged": "flagged", "poisoned": "poisoned"}
    if not record.plan["attack"]:  # nobody knows
        del titles["poisoned"]
    found = {title: held[name] for name, title in titles.items() if name in held}
    columns = {title: values.astype(int) if values.dtype == bool else values for title, values in found.items()}
    with whole(file) as part, part.open("w", newline="", encoding="utf-8") as out:
        lines = csv.writer(out)
        lines.writerow(columns)
        lines.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    answered({"path": str(file), "of": of}, f"{len(held['ids'])} scores by {of} in {file}", common)


def _kind(room: str) -> str:
    """The kind behind a room's name, singular or plural."""
    plurals = {"modalities": "modality", **{f"{kind}s": kind for kind in ROOMS}}
    kind = plurals.get(room.lower(), room.lower())
    if kind not in ROOMS:
        raise UnknownName(f"there is no room '{room}'{suggest(room, ROOMS)}")
    return kind
