"""What holds for the whole code base: import order, size, and things that must not occur."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from expectations import ROWS
from ostiary.component import ROOMS, catalogue

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "ostiary"
FILES = sorted(PACKAGE.rglob("*.py"))
METHOD_ROOMS = ("attacks", "detectors", "purifiers", "explainers", "triggers")


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def nodes(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file)))


def calls(file: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """(line, what is called as written, the call)."""
    for node in nodes(file):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def test_rooms_import_only_from_rooms_below_them() -> None:
    pytest.importorskip("importlinter")
    run = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    found = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
    assert "0 broken" in found.stdout


@pytest.mark.parametrize(
    "module", ["ostiary", "ostiary.component", "ostiary.report.tables", "ostiary.experiment.record", "ostiary.cli"]
)
def test_what_only_lists_and_reads_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}, ostiary.component; ostiary.component.catalogue(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "False"


def test_graph_files_import_pyg_only_where_it_is_used() -> None:
    """It doubles import time, and image work needs none of it."""
    code = "import sys, ostiary.experiment.compute, ostiary.testing.contracts; print('torch_geometric' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "False"


def test_the_types_of_the_package_are_for_its_users_too() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_method_files_are_short() -> None:
    """100 lines with docstrings; base.py of a room holds its contract, not a method."""
    files = [f for room in METHOD_ROOMS for f in sorted((PACKAGE / room).glob("*.py")) if f.name != "base.py"]
    lengths = {name(f): len(f.read_text(encoding="utf-8").splitlines()) for f in files}
    assert len(lengths) > 10
    assert {f: n for f, n in lengths.items() if n > 100} == {}


def test_functions_are_short() -> None:
    found = {}
    for file in FILES:
        for node in nodes(file):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{name(file)}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert len(found) > 100
    assert {f: n for f, n in found.items() if n > 40} == {}


def test_the_library_does_not_print() -> None:
    assert [
        f"{name(f)}:{line}" for f in FILES for line, what, _ in calls(f) if what in ("print", "pprint", "pprint.pprint")
    ] == []


def test_devices_come_from_the_context() -> None:
    assert [f"{name(f)}:{line}" for f in FILES for line, what, _ in calls(f) if what.endswith(".cuda")] == []


def test_randomness_is_seeded_in_one_place() -> None:
    glob = re.compile(
        r"(torch|torch\.random|torch\.cuda|np\.random|numpy\.random|random)\.(manual_seed(_all)?|seed|set_rng_state)"
    )
    assert [
        f"{name(f)}:{line}" for f in FILES if name(f) != "seeds.py" for line, what, _ in calls(f) if glob.fullmatch(what)
    ] == []


def test_nothing_is_unpickled() -> None:
    """`weights_only=True` is written out, also where it is torch's default; pickle reads only what it has just written."""
    bad = []
    for file in FILES:
        for line, what, call in calls(file):
            options = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if what == "torch.load" and options.get("weights_only") != "True":
                bad.append(f"{name(file)}:{line}: {what}")
            if what in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
                bad.append(f"{name(file)}:{line}: {what}")
            if re.fullmatch(r"(pickle|cPickle|joblib|dill|cloudpickle|pd|pandas)\.(load|Unpickler|read_pickle)", what):
                bad.append(f"{name(file)}:{line}: {what}")
            if what == "pickle.loads" and not ast.unparse(call.args[0]).startswith("pickle.dumps("):
                bad.append(f"{name(file)}:{line}: {what}")
            if what in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "marshal.loads"):
                bad.append(f"{name(file)}:{line}: {what}")
    assert bad == []


def test_no_bare_except() -> None:
    assert [
        f"{name(f)}:{n.lineno}" for f in FILES for n in nodes(f) if isinstance(n, ast.ExceptHandler) and n.type is None
    ] == []


@pytest.mark.parametrize("kind", ["attack", "detector", "purifier", "explainer", "victim"])
def test_every_registered_method_has_a_row_of_expectations(kind: str) -> None:
    registered = {entry.name for entry in catalogue(kind)}
    assert registered, f"the room {ROOMS[kind]} registers nothing"
    assert registered == {row.name for row in ROWS if row.kind == kind}


def test_every_registered_component_says_what_it_is_in_one_line() -> None:
    entries = catalogue()
    assert [f"{e.kind} {e.name}" for e in entries if not e.summary.endswith(".")] == []
    keys = [(e.kind, e.name) for e in entries]
    assert len(keys) == len(set(keys))
    assert [k for k in keys if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", k[1])] == []


def test_every_method_names_its_source() -> None:
    """Authors and year, or a link, in the docstring of whatever comes from a paper."""
    silent = []
    for kind in ("attack", "detector", "purifier", "explainer"):
        for entry in catalogue(kind):
            text = (ROOT / "src" / Path(*entry.module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
            if not re.search(r"arXiv:\d{4}\.\d{4,5}|doi\.org|\b(19|20)\d\d\b", text):
                silent.append(f"{kind} {entry.name}")
    assert silent == []


def tracked() -> list[Path]:
    run = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        pytest.skip("not a git checkout")
    files = [ROOT / f for f in found]
    return [f for f in files if f.is_file() and f.suffix not in (".npz", ".png", ".safetensors", ".woff2")]


def test_no_absolute_path_and_no_machine_name_in_tracked_files() -> None:
    places = "|".join(("home", "root", "Users", "work", "mnt", "scratch"))
    path = re.compile(rf"(?<![\w.~$}}\])>/:-])/({places})/\w|[A-Z]:\\\\?Users")
    host = socket.gethostname()
    machine = re.compile(rf"\b{re.escape(host)}\b") if len(host) > 5 and host != "localhost" else None
    bad = []
    for file in tracked():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
            if path.search(line) or (machine and machine.search(line)):
                bad.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert bad == []
