"""What `ostiary run` does with a plan."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostiary.cli.answers import Common, print_json, stdout_as_stderr
from ostiary.errors import BadSpec, InvalidInput

if TYPE_CHECKING:
    from ostiary.experiment.record import Record


def check_settings(plan: str | None, settings: list[str]) -> None:
    """Refuse at once, before torch is imported, what can be seen from the words alone."""
    if plan is not None and not Path(plan).exists():
        hint = f"if this is a setting, write --set {plan}" if "=" in plan else "give a YAML file or options with --set"
        raise InvalidInput(f"there is no plan file {plan}; {hint}")
    for setting in settings:
        if setting.endswith((".yaml", ".yml")) and "=" not in setting:
            raise BadSpec(f"'{setting}' is no setting; a plan file goes before --set: ostiary run {setting} --set ...")
        if "=" not in setting:
            raise BadSpec(f"'{setting}' is no setting; write option=value, like attack.rate=0.1")


def carried_out(
    plan: str | dict[str, Any], changes: list[str], store: Path, workers: int, device: str, quiet: bool
) -> list[Record]:
    """`runner.run` with progress on stderr and nothing on stdout."""
    from ostiary import terminal
    from ostiary.experiment import runner

    try:
        with stdout_as_stderr(), terminal.progress(off=quiet) as listener:
            return runner.run(plan, changes=changes, store=store, workers=workers, device=device, listener=listener)
    except KeyboardInterrupt:
        how = f"finished stages are kept in {store}, the same command goes on from there"
        raise KeyboardInterrupt(f"interrupted; {how}") from None


def ran(records: Sequence[Record], store: Path, common: Common) -> int:
    """What came of a run, and its exit code."""
    if common.debug:
        _print_traces(records, store)
    if common.json:
        print_json(records)
    else:
        from ostiary import terminal

        out = terminal.console()
        terminal.results(out, records)
        terminal.where(out, records, shlex.quote(str(store)))
    return int(any(r.status == "failed" for r in records))


def preview(plan: str | dict[str, Any], changes: list[str], store: Path, common: Common) -> int:
    """What a run would do, run by run."""
    from ostiary import terminal
    from ostiary.data.user_code import executed
    from ostiary.experiment import runner
    from ostiary.report.tables import names

    with stdout_as_stderr():
        found = runner.preview(plan, changes=changes, store=store)
    specs = [cell.spec() for cell, _ in found.cells]
    labels = [
        {kind: [part.label() for part in getattr(cell.plan, kind)] for kind in ("detectors", "purifiers")}
        for cell, _ in found.cells
    ]
    named = names([{k: v for k, v in (spec | own).items() if k != "seed"} for spec, own in zip(specs, labels, strict=True)])
    runs = [{"cell": n, "seed": s["seed"], "left": left} for n, s, (_, left) in zip(named, specs, found.cells, strict=True)]
    trusted = sorted({line for spec in specs for line in executed(spec)})
    if common.json:
        print_json({"runs": runs, "stages": found.stages, "left": found.left, "trusted": trusted})
    else:
        terminal.preview(terminal.console(), runs, found.stages, found.left, trusted)
    return 0


def _print_traces(records: Sequence[Record], store: Path) -> None:
    """The tracebacks of failed stages, on stderr."""
    from ostiary.experiment.store import Store

    book = Store(store, create=False)
    with contextlib.closing(book):
        rows = {key: book.stage(key) for r in records for name, key in r.stages.items() if name in r.errors}
    for row in rows.values():
        if row is not None:
            sys.stderr.write(f"stage {row.label}, {row.key[:12]}\n{row.trace}\n")
