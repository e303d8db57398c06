"""The command line, mostly in this process; subprocesses where imports, pipes or the file descriptors matter."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import pytest
import torch

from ostiary import __version__, cli, terminal
from ostiary.cli import commands
from ostiary.component import Positive, PositiveFloat, Rate, build
from ostiary.experiment.record import Record
from ostiary.models.weights import load_weights
from ostiary.terminal.progress import Bars

TOY = ["dataset=toy-graphs", "victim=gin", "attack=sub-ba", "attack.rate=0.1", "purifiers=[fine-tune]", "trainer.epochs=2"]
HEAVY = ("torch", "torch_geometric", "sklearn", "altair", "ostiary.experiment.runner")


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as one strict JSON document."""

        def refuse(text: str) -> None:
            raise AssertionError(f"{text} is not strict JSON")

        return json.loads(self.out, parse_constant=refuse)


Call = Callable[..., Answer]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: object) -> Answer:
        capsys.readouterr()
        code = cli.main([str(w) for w in words])
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err, "escape codes outside a terminal"
        if "--debug" not in words:
            assert "Traceback" not in out + err
        return Answer(code, out, err)

    return run


def refused(answer: Answer, *parts: str) -> None:
    """Exit code 2, nothing but one sentence on stderr that holds `parts`."""
    assert answer.code == 2
    assert answer.err.startswith("ostiary: ")
    assert answer.err.count("\n") == 1
    for part in parts:
        assert part in answer.err


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished toy record."""
    folder = tmp_path_factory.mktemp("cli") / "store"
    assert cli.main(["run", "--set", *TOY, "detectors=[spectral]", "seeds=[0]", "--store", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def toy(store: Path) -> list[object]:
    """The words that run the stored toy plan again."""
    return ["run", "--set", *TOY, "detectors=[spectral]", "seeds=[0]", "--store", store]


# speed: what is imported


def test_light_commands_import_nothing_heavy(store: Path, tmp_path: Path) -> None:
    commands: list[list[str]] = [[], ["--help"], ["--version"], ["list"], ["list", "attacks", "--json"], ["frobnicate"]]
    commands += [[c, "--help"] for c in ("run", "list", "options", "show", "report", "weights", "data")]
    commands += [["run", "--sett"], ["run", "nowhere.yaml"], ["run", "--set", "nonsense"], ["options", "attack"]]
    commands += [
        ["show", "--store", str(store)],
        ["show", "--store", str(store), "--json"],
        ["report", "--store", str(tmp_path)],
    ]
    code = f"""
import sys
from ostiary.cli import main
codes = [main(words) for words in {commands!r}]
sys.exit(str([m for m in {HEAVY!r} if m in sys.modules] or codes))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == str([0] * 5 + [2] + [0] * 7 + [2] * 4 + [0, 0, 2])
    assert "Traceback" not in done.stderr


def test_both_entry_points_tell_the_version() -> None:
    command = Path(sys.executable).with_name("ostiary")
    for start in ([sys.executable, "-m", "ostiary"], [str(command)]):
        done = subprocess.run([*start, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == __version__


def test_the_default_store_is_the_runners() -> None:
    from ostiary.experiment.runner import DEFAULT_STORE

    assert str(commands.STORE) == DEFAULT_STORE


# list and options


def test_list_shows_rooms_but_no_internal_kinds(call: Call) -> None:
    answer = call("list")
    assert answer.code == 0
    for word in ("sub-ba", "fine-tune", "spectral", "gin", "solubility", "purifier"):
        assert word in answer.out
    kinds = {e["kind"] for e in call("list", "--json").document}
    assert {"attack", "detector", "purifier", "victim", "dataset"} <= kinds
    assert not kinds & {"plan", "trigger", "modality"}


@pytest.mark.parametrize(
    ("room", "kind"), [("attack", "attack"), ("attacks", "attack"), ("Modalities", "modality"), ("labels", "labels")]
)
def test_list_takes_singular_and_plural(call: Call, room: str, kind: str) -> None:
    found = call("list", room, "--json").document
    assert {e["kind"] for e in found} == {kind}
    assert all(set(e) == {"kind", "name", "summary", "modalities"} and e["summary"] for e in found)


def test_options_in_words(call: Call) -> None:
    answer = call("options", "attack", "sub-ba")
    assert answer.code == 0
    assert "arXiv:2006.11165" in answer.out
    assert re.search(r"rate +number in \[0, 1\] +0\.05", answer.out)
    assert re.search(r"labels +labels: .*clean-label.* +all-to-one", answer.out)
    assert re.search(r"target +whole number from 0 +0", answer.out)
    assert "poisoned share" in answer.out, "options of a base class are explained in its text"


def test_options_as_json(call: Call) -> None:
    found = call("options", "victims", "gin", "--json").document
    assert (found["kind"], found["name"]) == ("victim", "gin")
    assert found["recipe"]["epochs"] == 60
    pooling = next(o for o in found["options"] if o["name"] == "pooling")
    assert pooling == {"name": "pooling", "type": "one of sum, mean, max", "default": "sum", "required": False}


def test_options_of_a_room_with_one_member(call: Call) -> None:
    assert "batch_size" in call("options", "trainer").out
    found = call("options", "plan", "--json").document
    dataset = found["options"][0]
    assert dataset["required"]
    assert dataset["part"] == "dataset"
    assert "solubility" in dataset["type"]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Rate, "number in [0, 1]"),
        (Positive, "whole number from 1"),
        (PositiveFloat, "number above 0"),
        (Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)], "number in (0, 1)"),
        (Annotated[float, msgspec.Meta(le=5)], "number up to 5"),
        (Literal["white", "checker"], "one of white, checker"),
        (bool, "true or false"),
        (int | None, "whole number or none"),
        (tuple[int, ...], "list of: whole number"),
        (tuple[float, str], "list of 2: number, text"),
        (dict[str, Any], "mapping"),
    ],
)
def test_readable_types(hint: Any, words: str) -> None:
    assert terminal.readable(hint) == words


# run


def test_run_prints_the_table_and_the_way_on(call: Call, toy: list[object], store: Path) -> None:
    answer = call(*toy)
    assert answer.code == 0
    for word in ("ACC %", "ASR %", "natural %", "lift", "RA %", "ACC drop", "DER", "seconds", "AUROC", "1 seed"):
        assert word in answer.out
    assert re.search(r"^none +\d+\.\d +\d+\.\d \[\d+\.\d, \d+\.\d\]", answer.out, re.MULTILINE)
    assert re.search(r"^fine-tune ", answer.out, re.MULTILINE)
    assert re.search(
        r"^How fast the backdoor comes back\n.*after 5 triggered samples.*\n.*\nclean model .*\nfine-tune ",
        answer.out,
        re.MULTILINE,
    )
    assert "Doubts" in answer.out
    assert f"ostiary report --store {store}" in answer.out
    assert "8 of 8 stages done (8 reused)" in answer.err
    again = call(*toy, "--quiet")
    assert (again.out, again.err) == (answer.out, "")


def test_run_json_is_the_records_alone(call: Call, toy: list[object]) -> None:
    answer = call(*toy, "--json")
    assert (answer.code, answer.err) == (0, "")
    (record,) = answer.document
    assert {"plan", "metrics", "seconds", "doubts"} <= set(record)
    assert record["plan"]["attack"]["rate"] == 0.1
    assert record["metrics"]["purifiers"]["fine-tune"]["acc"]["n"] == 20


def test_run_takes_a_plan_file_and_settings_on_top(call: Call, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("dataset: toy-graphs\nvictim: gin\nattack: {name: sub-ba, rate: 0.2}\ntrainer: {epochs: 1}\nseeds: [3]\n")
    answer = call(
        "run", plan, "--set", "attack.rate=0.3", "--set", "dataset.n=60", "victim.layers=2", "--store", tmp_path / "s", "--json"
    )
    (record,) = answer.document
    found = record["plan"]
    assert (found["attack"]["rate"], found["dataset"]["n"], found["victim"]["layers"], found["seed"]) == (0.3, 60, 2, 3)


def test_a_stage_that_fails_gives_exit_code_1_and_its_reason(call: Call, tmp_path: Path) -> None:
    words = ["run", "--set", *TOY, "dataset.clean_rate=0", "seeds=[0,1]", "--store", tmp_path, "--quiet"]
    answer = call(*words)
    assert answer.code == 1
    assert (
        "- purifier fine-tune: purifier 'fine-tune' needs clean, which was not given or is empty (2 of 2 seeds)" in answer.out
    )
    assert "- verdict fine-tune: not tried because purifier fine-tune failed (2 of 2 seeds)" in answer.out
    as_json = call(*words, "--json")
    assert as_json.code == 1
    assert [r["status"] for r in as_json.document] == ["failed", "failed"]
    assert "MissingEvidence" in call(*words, "--debug").err


def test_a_target_class_that_does_not_exist(call: Call, tmp_path: Path) -> None:
    answer = call("run", "--set", *TOY, "attack.target=9", "--store", tmp_path, "--quiet")
    assert answer.code == 1
    assert "target class 9 does not exist: the data have classes 0 to 1" in answer.out


def test_what_a_users_model_prints_stays_out_of_the_document(tmp_path: Path) -> None:
    model = tmp_path / "mine.py"
    model.write_text(
        "import os, torch\nprint('chatter')\nos.write(1, b'more chatter\\n')\n"
        "class make(torch.nn.Module):\n"
        "    def __init__(self, width, classes):\n"
        "        super().__init__(); self.head = torch.nn.Linear(width, classes)\n"
        "    def forward(self, x, batch):\n"
        "        pooled = x.new_zeros(int(batch.max()) + 1, x.shape[1]).index_add(0, batch, x)\n"
        "        return self.head(pooled)\n"
    )
    settings = [w for w in TOY if not w.startswith(("victim", "purifiers"))]
    words = ["run", "--set", *settings, f"victim={{name: file, path: {model}}}", "--store", str(tmp_path / "s"), "--json"]
    done = subprocess.run([sys.executable, "-m", "ostiary", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["status"] == "done"
    assert "more chatter" in done.stderr


# bad input


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run"], ["names no dataset", "dataset=solubility"]),
        (["run", "--set"], ["names no dataset"]),
        (["run", "nowhere.yaml"], ["there is no plan file nowhere.yaml"]),
        (["run", "dataset=x"], ["--set dataset=x"]),
        (["run", "--set", "nonsense"], ["'nonsense' is no setting", "option=value"]),
        (["run", "--set", "plan.yaml"], ["goes before --set"]),
        (["run", "--set", "seeds=[0"], ["'seeds=[0' cannot be read"]),
        (["run", "--set", *TOY, "attack=sub-bar"], ["unknown attack 'sub-bar'", "did you mean 'sub-ba'?"]),
        (["run", "--set", *TOY, "attack.rat=0.1"], ["no option 'rat'", "did you mean 'rate'?"]),
        (["run", "--set", *TOY, "attack.rate=much"], ["option rate", "'much'"]),
        (["run", "--set", *TOY, "attack.rate=1.5"], ["<= 1.0"]),
        (["run", "--set", *TOY, "purifier=[nad]"], ["did you mean 'purifiers'?"]),
        (["run", "--set", *TOY, "seeds=[]"], ["seeds is empty"]),
        (["run", "--set", *TOY, "seeds=5"], ["option seeds: expected a list, like seeds=[5]; got 5"]),
        (["run", "--set", "dataset={name: npz}", "victim=resnet"], ["dataset 'npz' needs the option 'path'; see"]),
        (["run", "--set", *TOY, "--device", "warp"], ["'warp' cannot be used here", "try cpu"]),
        (["run", "--set", *TOY, "--workers=-1"], ["--workers"]),
        (["run", "--set", *TOY, "--store", "/proc/nowhere"], ["/proc/nowhere"]),
        (["run", "--sett", "x=1"], ["unknown option", "--set"]),
        (["rnu"], ["unknown command", "run"]),
        (["foo"], ["unknown command", ", ...\n"]),
        (["list", "atacks"], ["no room 'atacks'", "did you mean 'attack'?"]),
        (["list", "attacks", "more"], ["unexpected argument 'more'"]),
        (["options", "detector", "sepctral"], ["did you mean 'spectral'?"]),
        (["options", "purifier"], ["which purifier?", "fine-tune"]),
        (["options"], ["ROOM"]),
        (["show", "--store", "no-such-folder"], ["there is no store in no-such-folder"]),
        (["report", "--store", "no-such-folder"], ["there is no store in no-such-folder"]),
    ],
)
def test_bad_input_is_one_sentence(call: Call, words: list[str], parts: list[str]) -> None:
    refused(call(*words), *parts)
    as_json = call(*words, "--json")
    refused(as_json, *parts)
    assert list(as_json.document) == ["error"]
    assert as_json.err == f"ostiary: {as_json.document['error']}\n"


def test_an_unexpected_error_is_a_sentence_too(call: Call, toy: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("a bug\nof ours")

    monkeypatch.setattr("ostiary.experiment.runner.run", broken)
    refused(call(*toy, "--quiet"), "unexpected ZeroDivisionError: a bug of ours; --debug shows where")
    assert "Traceback" in call(*toy, "--quiet", "--debug").err


def test_an_interrupt_says_how_to_go_on(call: Call, toy: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ostiary.experiment.runner.run", interrupted)
    answer = call(*toy, "--json")
    assert answer.code == 130
    assert answer.err.count("\n") == 1
    assert "finished stages are kept" in answer.err
    assert "the same command goes on" in answer.document["error"]


def test_an_interrupt_while_the_command_line_is_loaded_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting(MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "ostiary.cli":
                raise KeyboardInterrupt

    (script,) = entry_points(group="console_scripts", name="ostiary")
    command = script.load()
    monkeypatch.delitem(sys.modules, "ostiary.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert command() == 130
    assert capsys.readouterr() == ("", "ostiary: interrupted\n")


def piped(*words: object, before: str = "", encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, by a shell that closes streams as `before` says."""
    start = f'exec {before} "$@"'
    command = ["sh", "-c", start, "sh", sys.executable, "-m", "ostiary", *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding})


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
def test_what_is_wrong_is_told_in_json_though_stderr_is_closed(tmp_path: Path, closed: str) -> None:
    done = piped("show", "--store", tmp_path / "no", "--json", before=closed)
    assert done.returncode == 2
    assert list(json.loads(done.stdout)) == ["error"]


def test_a_run_takes_its_own_output_off_stdout_though_stderr_is_closed() -> None:
    done = piped("run", "--set", *TOY, "--store", "/proc/nowhere", "--json", before="<&- 2>&-")
    assert done.returncode == 2
    assert "/proc/nowhere" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "utf-16"])
def test_characters_that_stdout_lacks_are_escaped(store: Path, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / os.fsdecode("caf\u00e9 \u732b \U0001f431 ".encode() + b"\xff.jsonl")
    done = piped("export", file, "--store", store, encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert file.exists() and ("\u732b" if "utf" in encoding else r"\u732b") in done.stdout.decode(encoding)
    done = piped("export", file, "--store", store, "--json", encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding))["path"] == str(file)
    assert ("\u732b" in done.stdout.decode(encoding)) == (encoding == "utf-8")


def test_a_closed_pipe_is_silent() -> None:
    code = "import sys; from ostiary.cli import main; sys.exit(main(['list', '--json']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


# show and report


def test_show_one_record_in_detail(call: Call, store: Path, toy: list[object]) -> None:
    (record,) = call("show", "--store", store, "--json").document
    assert record["key"][:12] in call("show", "--store", store).out
    detail = call("show", "--store", store, record["key"][:6])
    assert detail.code == 0
    for word in ("rate: 0.1", "fine-tune", record["stages"]["victim"][:12], "control_acc", "torch 2", record["key"]):
        assert word in detail.out
    table = call(*toy, "--quiet").out.split("Doubts")[0]
    assert call("show", "--store", store).out.startswith(table)


def test_what_was_made_of_files_as_they_were_before_is_shown_by_key_alone(call: Call, tmp_path: Path) -> None:
    place, rng = tmp_path / "images.npz", np.random.default_rng(0)
    words = ["run", "--set", f"dataset={{name: npz, path: {place}}}", "victim={name: preact-resnet, width: 8, blocks: [1, 1]}"]
    words += ["trainer.epochs=1", "--store", str(tmp_path / "s"), "--quiet", "--json"]
    np.savez(place, images=rng.random((40, 8, 8, 1)), labels=np.arange(40) % 2)
    bad = json.loads(call(*words).out)[0]
    np.savez(place, images=rng.integers(0, 255, (40, 8, 8, 1), np.uint8), labels=np.arange(40) % 2)
    good = json.loads(call(*words).out)[0]
    assert (bad["status"], good["status"]) == ("failed", "done") and bad["plan"] == good["plan"]
    held = json.loads(call("show", "--store", tmp_path / "s", "--json").out)
    assert [record["key"] for record in held] == [good["key"]]
    asked = json.loads(call("show", bad["key"], "--store", tmp_path / "s", "--json").out)
    assert [record["key"] for record in asked] == [bad["key"]]
    assert "1 seed\n" in call("show", "--store", tmp_path / "s").out


def test_show_refuses_an_unknown_key(call: Call, store: Path) -> None:
    refused(call("show", "--store", store, "zzz"), "starts with 'zzz'", "ostiary show --store")


def test_a_damaged_record_is_told_and_the_others_are_shown(call: Call, store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    with contextlib.closing(sqlite3.connect(copy / "ostiary.sqlite")) as db, db:
        db.execute("insert into record values (?, 'done', 0, ?)", ("ab" * 20, b"{"))
    whole = call("show", "--store", store, "--json")
    answer = call("show", "--store", copy, "--json")
    assert (answer.code, answer.document) == (0, whole.document)
    assert answer.err.startswith("ostiary: the record abababababab is corrupt") and answer.err.count("\n") == 1
    assert call("show", "--store", store).err == "", "it is told once"


def test_a_store_without_records(call: Call, tmp_path: Path) -> None:
    from ostiary.experiment.store import Store

    Store(tmp_path).close()
    assert "holds no record yet" in call("show", "--store", tmp_path).out
    assert call("show", "--store", tmp_path, "--json").document == []
    refused(call("report", "--store", tmp_path), "holds no record yet")


def test_report_writes_the_page_and_names_it(call: Call, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    html = pytest.importorskip("ostiary.report.html")
    pytest.importorskip("altair")
    page = tmp_path / "page.html"
    answer = call("report", "--store", store, "--output", page)
    assert (answer.code, answer.out.strip()) == (0, str(page))
    assert "sub-ba" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(html, "write_report", lambda records, store, path: path)
    monkeypatch.setattr(html, "save_figures", lambda records, store, folder: [Path(folder) / "one.svg"])
    document = call("report", "--store", store, "--output", page, "--figures", tmp_path, "--json").document
    assert document == {"path": str(page), "figures": [str(tmp_path / "one.svg")], "tables": []}


# a model of a record


def test_weights_of_a_record_are_written(store: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    key = call("show", "--store", store, "--json").document[0]["key"]
    victim, tuned = tmp_path / "new" / "victim.safetensors", tmp_path / "tuned.safetensors"
    assert call("weights", key, victim, "--store", store).out == f"victim of record {key[:8]} in {victim}\n"
    answer = call("weights", key[:6], tuned, "--of", "fine-tune", "--store", store, "--json")
    assert answer.document == {"path": str(tuned), "of": "fine-tune"}
    data = build("dataset", "toy-graphs").load(0).train
    before, after = (build("victim", "gin").make(data, 1) for _ in range(2))
    load_weights(before.module, victim)
    load_weights(after.module, tuned)
    assert before.module.state_dict().keys() == after.module.state_dict().keys()
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    refused(call("weights", key, victim, "--of", "nad", "--store", store), "no model 'nad'; it has control, victim, fine-tune")
    refused(call("weights", key, tmp_path / "victim.pt", "--store", store), "written as .safetensors, not as 'victim.pt'")
    refused(call("weights", "zz", victim, "--store", store), "has a key that starts with 'zz'")
    monkeypatch.setattr("ostiary.cli.records.records_of", lambda *_: [None, None])
    refused(call("weights", "a", victim, "--store", store), "2 records in", "give more characters")


# what is shown, at any width


def made(seed: int, rate: float, *, acc: float, doubts: list[str]) -> Record:
    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value / 2, "high": 1.0, "n": 50}

    names = ("acc", "asr", "natural", "asr_lift", "ra", "drop", "der")
    victim = dict(zip(names, map(figure, (acc, 1.0, 0.1234, 0.8766, 0.05, 0.1, 0.75)), strict=True))
    parts = {kind: {"name": kind} for kind in ("dataset", "victim")} | {"attack": {"name": "sub-ba", "rate": rate}}
    metrics = {"victim": victim, "purifiers": {"anp(steps=5)": victim}, "detectors": {}}
    return Record(
        f"{seed}{rate}", {**parts, "seed": seed}, metrics, {"victim": 1234.5, "purifier anp(steps=5)": 2.0}, doubts, "done"
    )


def shown(records: list[Record], width: int, capsys: pytest.CaptureFixture[str]) -> str:
    out = terminal.console()
    out.width = width
    capsys.readouterr()
    terminal.results(out, records)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [30, 50, 66, 80, 100, 140, terminal.WIDE])
@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.2]])
def test_no_figure_is_cut_at_any_width(width: int, rates: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    records = [made(0, rate, acc=0.987, doubts=[]) for rate in rates]
    text = shown(records, width, capsys)
    assert all(len(line) <= width for line in text.splitlines())
    words = " ".join(text.split())
    for figure, times in (("98.7", 2), ("100.0 [50.0, 100.0]", 2), ("12.3", 2), ("87.7", 2), ("0.750", 2), ("1234.5", 1)):
        assert words.count(figure) == times * len(rates), figure
    assert "…" not in text


@pytest.mark.parametrize("width", [40, 80, 100, 140, terminal.WIDE])
def test_no_figure_of_a_ranking_is_cut_at_any_width(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it does not fit, defences fold, then standard deviations go; in a very narrow terminal it is told in lines."""
    names = ("anp(steps=5)", "retrain-without(detector=xgbd(explainer=gnn-explainer))")
    records = [made(seed, rate, acc=0.9, doubts=[]) for seed, rate in ((0, 0.1), (0, 0.2))]
    for r, drop in zip(records, (0.1234, 0.3234), strict=True):
        model = {**r.metrics["victim"], "drop": {"value": drop, "n": 50}, "asr_lift": {"value": drop, "n": 50}}
        r.metrics["purifiers"] = dict.fromkeys(names, model)
        r.stages.update({f"purifier {name}": "" for name in names})
    text = shown(records, width, capsys).partition("Defences, each")[2].partition("solved: ")[0]
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text and "".join(text.split()).count("22.3") == 4
    words, spread = " ".join(text.split()), width not in (80, 100)
    assert ("22.3 ± 14.1" in words) == ("mean ± standard deviation" in words) == spread


def test_seeds_are_averaged_and_doubts_merged(capsys: pytest.CaptureFixture[str]) -> None:
    doubts = [["accuracy 60.1% is low", "anp(steps=5): ASR 3%"], ["accuracy 62% is low"]]
    text = shown([made(s, 0.1, acc=0.5 + s / 10, doubts=doubts[s]) for s in (0, 1)], 140, capsys)
    assert "dataset / victim / sub-ba, 2 seeds" in text
    assert re.search(r"^none +55\.0 +100\.0 \[64.6, 100.0\]", text, re.MULTILINE)
    assert "- accuracy 60.1-62% is low (2 of 2 seeds)" in text
    assert "- anp(steps=5): ASR 3% (1 of 2 seeds)" in text


def test_doubts_over_several_groups_say_where(capsys: pytest.CaptureFixture[str]) -> None:
    records = [made(0, 0.1, acc=0.5, doubts=["both", "one"]), made(0, 0.2, acc=0.5, doubts=["both"])]
    text = shown(records, terminal.WIDE, capsys)
    assert "- both (2 of 2 runs)" in text
    assert "- one (1 of 2 runs, all in dataset / victim / sub-ba(rate=0.1))" in text


def test_published_figures_of_no_run_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    one = made(0, 0.1, acc=0.9, doubts=[])
    paper = {"acc": 0.8, "nda": {"acc": 0.9}}
    text = shown([msgspec.structs.replace(one, published=paper)], terminal.WIDE, capsys)
    assert "ours less published\nof no run here, and left out: nda\n" in text
    assert "of no run here" not in shown([msgspec.structs.replace(one, published={"acc": 0.8})], terminal.WIDE, capsys)


def test_progress_on_a_terminal() -> None:
    import io

    from rich.console import Console

    from ostiary.experiment.runner import Progress

    screen = io.StringIO()
    bars = Bars(Console(file=screen, force_terminal=True, width=90))
    with bars.shown:
        bars(Progress(4, 1, 1, 0, {"k": ("victim", "training the victim", 0.5)}))
        bars.shown.refresh()
        bars(Progress(4, 3, 1, 1, {}))
    assert "1 of 4 stages done (1 reused)" in screen.getvalue()
    assert "training the victim" in screen.getvalue()
    assert "1 failed" in screen.getvalue()


# what a run would do, and tables


def test_a_dry_run_computes_and_writes_nothing(call: Call, tmp_path: Path, store: Path, toy: list[object]) -> None:
    words = ["run", "--set", *TOY, "seeds=[0,1]", "vary={attack.target: [0, 1]}", "--dry-run"]
    said = call(*words, "--store", tmp_path / "none")
    assert said.code == 0 and not (tmp_path / "none").exists()
    lines = said.out.splitlines()
    assert lines[:2] == [f"toy-graphs / gin / sub-ba(target={t}): seeds 0, 1; 14 stages to compute" for t in (0, 1)]
    assert lines[2].startswith("4 runs of 2 cells, 24 stages, 0 of them done")  # data and control are shared
    (tmp_path / "bare").mkdir()
    assert call(*words, "--store", tmp_path / "bare").out == said.out and not [*(tmp_path / "bare").iterdir()]
    done = call(*toy, "--dry-run", "--json").document
    assert [run["left"] for run in done["runs"]] == [[]] and done["left"] == 0
    some = call(*toy, "--set", "purifiers=[fine-tune,{name: fine-tune, epochs: 2}]", "--dry-run", "--json").document
    assert some["runs"][0]["left"] == ["purifier fine-tune(epochs=2)", "verdict fine-tune(epochs=2)"]
    refused(call("run", "--set", *TOY, "attack.rat=1", "--dry-run"), "did you mean 'rate'")


def test_a_dry_run_tells_whose_code_a_run_would_execute(call: Call, tmp_path: Path, store: Path, toy: list[object]) -> None:
    assert call(*toy, "--dry-run", "--json").document["trusted"] == []
    code = tmp_path / "mine.py"
    code.write_text("raise SystemExit('executed')\n")
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"dataset: {{name: planetoid, unpickle: true}}\nvictim: gcn\nvary: {{victim: [gcn, {{name: file, path: {code}}}]}}\n"
    )
    said = call("run", plan, "--dry-run", "--store", tmp_path / "none", "--json")
    assert said.document["trusted"] == [f"Python of {code}", "pickles of planetoid"]
    assert "read them first if they are not yours" in call("run", plan, "--dry-run", "--store", tmp_path / "none").out


def test_tables_are_saved_to_calculate_with_and_for_a_paper(call: Call, store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    said = call("report", "--store", store, "--output", tmp_path / "r.html", "--tables", folder, "--json").document
    (record,) = call("show", "--store", store, "--json").document
    kinds = ("defences", "detectors", "reactivation", "stealth")
    assert {Path(p).name for p in said["tables"]} == {"runs.csv"} | {f"{n}.{e}" for n in kinds for e in ("csv", "tex")}
    runs = list(csv.DictReader((folder / "runs.csv").read_text(encoding="utf-8").splitlines()))
    assert [(r["key"], r["seed"], r["attack"], r["defence"]) for r in runs] == [
        (record["key"], "0", "sub-ba", d) for d in ("none", "fine-tune")
    ]
    assert float(runs[1]["asr"]) == record["metrics"]["purifiers"]["fine-tune"]["asr"]["value"] and runs[0]["drop"] == ""
    means = list(csv.DictReader((folder / "defences.csv").read_text(encoding="utf-8").splitlines()))
    assert float(means[0]["acc"]) == record["metrics"]["victim"]["acc"]["value"] and means[0]["acc_n"] == "1"
    latex = (folder / "defences.tex").read_text(encoding="utf-8")
    assert latex.count("\\\\") == 3 and "ACC \\%" in latex and "fine-tune" in latex and "$" in latex
    assert f"${100 * float(runs[0]['acc']):.1f}\\; [" in latex


# other systems


def test_commands_work_where_python_has_no_fcntl(store: Path, tmp_path: Path) -> None:
    commands = [
        ["run", "--set", *TOY, "detectors=[spectral]", "seeds=[0]", "--store", str(store), "--dry-run"],
        ["run", "--set", *TOY, "purifiers=[]", "seeds=[1]", "--store", str(tmp_path / "s"), "--quiet"],
        ["show", "--store", str(store)],
        ["merge", str(store), "--store", str(tmp_path / "s")],
        ["report", "--store", str(store), "--output", str(tmp_path / "page.html")],
    ]
    code = f"""
import sys, pytest, windows
windows.pretend(pytest.MonkeyPatch())
from ostiary.cli import main
sys.exit(str([main(words) for words in {commands!r}]))
"""
    here = str(Path(__file__).with_name("experiment"))
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stderr.splitlines()[-1] == str([0] * 5), done.stdout + done.stderr
