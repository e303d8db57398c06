"""Plans: where they come from, what they are crossed to, the keys of their stages, and how bad ones are refused."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_runs import TOY, toy

from ostiary import component
from ostiary.attacks.sub_ba import SubBA
from ostiary.component import lookup
from ostiary.errors import BadSpec, InvalidInput, OstiaryError, StoreError, UnknownName
from ostiary.experiment.plan import Plan, put, read_plan
from ostiary.experiment.plan_file import read_value
from ostiary.experiment.record import SCHEMA, Record, canonical, decode_record, encode
from ostiary.experiment.runner import _Job
from ostiary.experiment.stages import stages_of
from ostiary.purifiers.fine_tune import FineTune

YAML = """
dataset: toy-graphs
victim: {name: gin, hidden: 8, layers: 2}
trainer: {epochs: 2, lr: 1e-3}
attack: {name: sub-ba, rate: 0.1}
purifiers: [{name: fine-tune, epochs: 2}]
seeds: [0, 1]
vary: {attack.rate: [0.1, 0.2], victim.layers: [1, 2, 3]}
"""


def refused(kind: type[OstiaryError], source: Any, *parts: str, changes: tuple[str, ...] = ()) -> None:
    """One sentence of the given kind, from `read_plan` or the expansion."""
    with pytest.raises(kind) as error:
        read_plan(source, changes)[0].cells()
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def keys(plan: Any, *changes: str) -> dict[str, str]:
    """Stage name -> key of the first cell."""
    return {stage.name: stage.key() for stage in stages_of(read_plan(plan, changes)[0].cells()[0])}


# where a plan comes from


def test_a_file_a_mapping_and_a_plan_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("\ufeff" + YAML, encoding="utf-8")
    plan, passed = read_plan(file)
    assert read_plan(str(file))[0] == plan
    assert read_plan(passed)[0] == plan
    assert read_plan(plan)[0] == plan
    assert read_plan(plan.spec())[0] == plan
    assert plan.training().lr == 0.001
    assert passed["dataset"] == "toy-graphs", "what was passed is kept apart from what it was resolved to"


def test_parts_may_be_instances_and_classes_and_are_passed_on_as_plain_values() -> None:
    parts = {"attack": SubBA, "purifiers": (FineTune(epochs=2), FineTune)}
    assert read_plan({**TOY, **parts}, ["attack.rate=0.3"])[1]["attack"] == {"name": "sub-ba", "rate": 0.3}
    plan, passed = read_plan({**TOY, **parts, "vary": {"attack": [SubBA(rate=0.2), "gta"]}})
    assert passed["purifiers"] == [FineTune(epochs=2).spec(), "fine-tune"]
    assert msgspec.json.decode(encode(passed)) == passed
    assert [cell.plan.attack.name for cell in plan.cells()] == ["sub-ba", "gta"]


@pytest.mark.parametrize("change", ["attack=gta", "attack.rate=0.3"])
def test_a_change_that_vary_overrides_is_refused(change: str) -> None:
    plan = {**TOY, "vary": {"attack + seeds": [["sub-ba", [0]], ["gta", [1]]]}}
    refused(
        BadSpec, plan, change.partition("=")[0], "the plan varies attack, so that it would change nothing", changes=(change,)
    )
    read_plan({**TOY, "vary": {"attack.rate": [0.1, 0.2]}}, ["attack=gta"])


def test_changes_reach_into_parts_and_leave_the_source_alone() -> None:
    source = {"dataset": "toy-graphs", "victim": "gin", "attack": "sub-ba"}
    plan, passed = read_plan(source, ["attack.rate=0.2", "victim.hidden = 4", "purifiers=[fine-tune]", "trainer.lr=1e-2"])
    assert (plan.attack.spec()["rate"], plan.victim.spec()["hidden"], plan.training().lr) == (0.2, 4, 0.01)
    assert source == {"dataset": "toy-graphs", "victim": "gin", "attack": "sub-ba"}
    assert passed["attack"] == {"name": "sub-ba", "rate": 0.2}
    assert read_plan(source, "attack.rate=0.2")[0] == read_plan(source, ["attack.rate=0.2"])[0], "one change needs no list"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("-2E+2", -200.0), ("1.5e2", 150.0), ("1e3x", "1e3x"), ("0x10", 16), ("[1, a]", [1, "a"]), ("", None)],
)
def test_yaml_as_people_mean_it(text: str, value: Any) -> None:
    found = read_value(text, "x")
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read_as_that_number(number: float) -> None:
    assert read_value(repr(number), "x") == number


# what it is crossed to


def test_joined_paths_vary_together() -> None:
    pairs = [["gin", 0], [{"name": "gcn", "layers": 1}, 1]]
    plan = read_plan(toy(vary={"attack.rate": [0.1, 0.2], "victim + attack.target": pairs}))[0]
    found = [(c.plan.attack.spec()["rate"], c.plan.victim.name, c.plan.attack.spec()["target"]) for c in plan.cells()]
    assert found == [(r, n, t) for r in (0.1, 0.2) for n, t in (("gin", 0), ("gcn", 1))]
    with pytest.raises(BadSpec, match="must be a list of 2, one per path; got 'gin'"):
        read_plan(toy(vary={"victim + attack.target": ["gin"]}))[0].cells()
    with pytest.raises(UnknownName, match="is no option of a plan"):
        read_plan(toy(vary={"victim + atack.target": pairs}))[0].cells()


def test_vary_is_a_cross_product_and_every_combination_has_a_seed_before_the_next() -> None:
    plan = read_plan(toy(seeds=[5, 6], vary={"attack.rate": [0.1, 0.2], "victim.layers": [1, 2]}))[0]
    found = [(c.plan.attack.spec()["rate"], c.plan.victim.spec()["layers"], c.seed) for c in plan.cells()]
    assert found == [(r, n, s) for s in (5, 6) for r in (0.1, 0.2) for n in (1, 2)]
    for cell in plan.cells():
        assert (cell.plan.seeds, cell.plan.vary) == ((cell.seed,), {})
        assert "seeds" not in cell.spec()


def test_an_oracle_needs_an_attack() -> None:
    oracle = {"name": "fine-pruning", "oracle": True}
    refused(BadSpec, {**TOY, "attack": None, "purifiers": [oracle]}, "chooses by attack success, and the plan names no attack")
    assert read_plan({**TOY, "attack": "sub-ba", "purifiers": [oracle]})[0].purifiers


def test_data_and_victim_that_vary_need_not_be_named_once_more() -> None:
    pairs = [["solubility", {"name": "gin", "layers": 2}], ["toy-graphs", "gcn"]]
    plan, passed = read_plan({"vary": {"dataset + victim": pairs, "victim.hidden": [8, 16]}})
    assert set(passed) == {"vary"}
    found = [(c.plan.dataset.name, c.plan.victim.name, c.plan.victim.hidden) for c in plan.cells()]
    assert found == [("solubility", "gin", 8), ("solubility", "gin", 16), ("toy-graphs", "gcn", 8), ("toy-graphs", "gcn", 16)]


def test_vary_takes_whole_parts_and_lists_of_parts() -> None:
    vary = {"attack": ["sub-ba", {"name": "gta", "rate": 0.2}], "purifiers": ["fine-tune", ["nad", "fine-tune"]]}
    plan = read_plan(toy(vary=vary))[0]
    found = [(c.plan.attack.name, [p.name for p in c.plan.purifiers]) for c in plan.cells()]
    lists = (["fine-tune"], ["nad", "fine-tune"])
    assert found == [(attack, names) for attack in ("sub-ba", "gta") for names in lists]


def test_put_names_the_part_on_the_way() -> None:
    assert put({"a": "b"}, "a.c.d", 1) == {"a": {"name": "b", "c": {"d": 1}}}
    with pytest.raises(BadSpec, match="'a' is 3, which has no options"):
        put({"a": 3}, "a.b", 1)


# keys


def test_keys_do_not_depend_on_process_or_order_of_options() -> None:
    plan = toy(detectors=["spectral"], victim={"name": "gin", "hidden": 8, "layers": 2})
    turned = dict(reversed(list({**plan, "victim": {"layers": 2, "hidden": 8, "name": "gin"}}.items())))
    assert keys(plan) == keys(turned)
    code = f"""
from ostiary.experiment.plan import read_plan
from ostiary.experiment.stages import stages_of
print(*(s.key() for s in stages_of(read_plan({plan!r})[0].cells()[0])))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.split() == list(keys(plan).values())


def test_defaults_written_out_and_whole_numbers_for_fractions_give_the_same_keys() -> None:
    assert keys(TOY) == keys({**TOY, "attack": SubBA(rate=0.1)})
    assert keys(TOY, "attack.rate=1") == keys(TOY, "attack.rate=1.0")
    assert keys(TOY, "trainer.lr=0.005") == keys(TOY), "0.005 is the victim's own recipe"


def test_a_revision_of_a_part_or_a_part_of_a_part_changes_the_keys_of_what_depends_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = toy(detectors=["spectral"], purifiers=["fine-tune", {"name": "retrain-without", "detector": "spectral"}])
    before, label = keys(plan), lookup("detector", "spectral")().label()
    monkeypatch.setattr(lookup("detector", "spectral"), "revision", 1)
    after = keys(plan)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"detector spectral", "purifier retrain-without", "verdict retrain-without"}
    assert lookup("detector", "spectral")().label() == label and "revision" not in lookup("detector", "spectral")().spec()
    monkeypatch.setattr(lookup("attack", "sub-ba"), "revision", 3)
    assert keys(plan)["control"] == before["control"] and keys(plan)["victim"] != before["victim"]


METHOD = """from helper_of_mine import more
from ostiary.purifiers.fine_tune import FineTune


class Mine(FineTune, name='mine'):
    'Mine.'
"""


def test_the_code_of_a_plugin_and_of_what_it_imports_is_part_of_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(component, "_registry", {**component._registry})
    method, helper, found = tmp_path / "plugin_of_mine.py", tmp_path / "helper_of_mine.py", []
    (tmp_path / "bystander.py").write_text("", encoding="utf-8")
    for code, beside, other in (
        (METHOD, "more = 1\n", ""),
        (METHOD, "more = 1\n", "new = 1\n"),
        (METHOD + "# another\n", "more = 1\n", ""),
        (METHOD, "more = 2\n", ""),
    ):
        method.write_text(code, encoding="utf-8")
        helper.write_text(beside, encoding="utf-8")
        (tmp_path / "bystander.py").write_text(other, encoding="utf-8")
        for name in ("plugin_of_mine", "helper_of_mine"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        importlib.import_module("plugin_of_mine")
        found.append(keys(toy(purifiers=["mine"])))
        method.write_text(code + "# edited since\n", encoding="utf-8")  # what runs is what was imported
        assert keys(toy(purifiers=["mine"])) == found[-1]
    for name in ("plugin_of_mine", "helper_of_mine"):
        sys.modules.pop(name)
    assert found[0] == found[1]
    for changed in found[2:]:
        assert {k for k in found[0] if found[0][k] != changed[k]} == {"purifier mine", "verdict mine"}
    assert found[2] != found[3]


@pytest.mark.parametrize("text", ["010", "1:30", "1:30.5", "00"])
def test_what_old_yaml_reads_as_another_number_is_none(text: str) -> None:
    assert read_value(text, "seeds") == text
    refused(BadSpec, TOY, "expected", changes=(f"seeds=[{text}]",))


@pytest.mark.parametrize(
    ("text", "value"),
    [("-7", -7), ("+3", 3), ("1_000", 1000), ("0x1F", 31), ("1.", 1.0), ("-.5", -0.5), (".5e-3", 5e-4), ("2.5E3", 2500.0)],
)
def test_numbers_are_numbers(text: str, value: float) -> None:
    found = read_value(text, "x")
    assert found == value and type(found) is type(value)


def test_a_path_is_varied_once() -> None:
    for vary in (
        {"attack.rate + attack.rate": [[0.1, 0.2]]},
        {"attack.rate": [0.1], "attack.rate + attack.target": [[0.2, 1]]},
    ):
        refused(BadSpec, {**TOY, "vary": vary}, "vary names attack.rate twice")


def test_a_preset_is_not_varied_under_options_that_are_set_already() -> None:
    with pytest.raises(BadSpec, match="vary: options of attack would override its preset; vary attack, like"):
        read_plan({**TOY, "vary": {"attack.preset": ["paper"]}})[0].cells()


def test_settings_are_put_in_place_parts_first_and_the_last_of_each() -> None:
    plan, _ = read_plan(TOY, ["attack.rate=0.3", "attack=sub-ba"])
    assert plan.attack.rate == 0.3  # type: ignore[union-attr]
    assert read_plan(TOY, ["attack.rate=0.3", "attack.rate=0.2"])[0].attack.rate == 0.2  # type: ignore[union-attr]


AFTER_ATTACK = {"victim", "judge", "detector spectral", "relearning", "purifier", "verdict"}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("seeds=[1]", {"data", "control", *AFTER_ATTACK}),
        ("dataset.n=100", {"data", "control", *AFTER_ATTACK}),
        ("victim.hidden=4", {"control", *AFTER_ATTACK}),
        ("trainer.epochs=3", {"control", *AFTER_ATTACK}),
        ("attack.rate=0.2", AFTER_ATTACK),
        ("detectors=[{name: spectral, eps: 0.2}]", {"detector spectral"}),
        ("purifiers=[{name: fine-tune, epochs: 3}]", {"purifier", "verdict"}),
        ("title=other", set()),
        ("notes=other", set()),
        ("published={asr: 99}", set()),
    ],
)
def test_an_option_changes_the_keys_of_what_depends_on_it_alone(change: str, changed: set[str]) -> None:
    plan = toy(detectors=["spectral"])
    before, after = keys(plan), keys(plan, change)
    named = {name.split("(")[0].removesuffix(" fine-tune") for name in before if before[name] not in after.values()}
    assert named == changed


@pytest.mark.parametrize("path", ["npz", "file"])
def test_content_of_a_users_file_is_part_of_the_keys(path: str, tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text("one", encoding="utf-8")
    part = {"name": path, "path": str(file)}
    plan = {**TOY, "dataset": part} if path == "npz" else {**TOY, "victim": part}
    before = keys(plan)
    assert keys(plan) == before
    file.write_text("another", encoding="utf-8")
    after = keys(plan)
    assert (before["data"] != after["data"]) == (path == "npz")
    assert before["control"] != after["control"]


def test_content_of_an_attackers_own_model_is_part_of_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    plan = {**TOY, "attack": {"name": "exp-ba", "surrogate": {"name": "file", "path": str(file)}}}
    found = []
    for text in ("A = 1\n", "A = 2\n"):
        file.write_text(text, encoding="utf-8")
        (cell,) = read_plan(plan)[0].cells()
        found.append({s.name: s.key() for s in stages_of(cell)})
    assert found[0]["control"] == found[1]["control"] and found[0]["victim"] != found[1]["victim"]
    file.write_text("A = 3\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="changed during the run"):
        cell.check_files()


def test_keys_of_a_large_sweep_take_little_time() -> None:
    purifiers = [{"name": "fine-tune", "epochs": 2 + i} for i in range(10)]
    sweep = toy(purifiers=purifiers, vary={"attack.rate": [0.1 + i / 1000 for i in range(100)]}, seeds=[0, 1, 2, 3, 4])
    began = time.process_time()
    cells = read_plan(sweep)[0].cells()
    job = _Job(None, cells, "cpu", lambda _: None, lambda _: None)  # type: ignore[arg-type]
    assert (len(cells), len(job.stages)) == (500, 5 + 5 + 500 * 23)
    assert time.process_time() - began < 3.0


# bad plans


@pytest.mark.parametrize(
    ("changes", "kind", "parts"),
    [
        (["attack=sub-bar"], UnknownName, ["unknown attack 'sub-bar'", "did you mean 'sub-ba'?"]),
        (["victim.hiden=3"], UnknownName, ["no option 'hiden'", "did you mean 'hidden'?"]),
        (["purifier=[nad]"], UnknownName, ["no option 'purifier'", "did you mean 'purifiers'?"]),
        (["trainer.epochz=3"], UnknownName, ["no option 'epochz'", "did you mean 'epochs'?"]),
        (["name=plan"], UnknownName, ["no option 'name'"]),
        (["attack.rate=much"], BadSpec, ["option rate", "'much'"]),
        (["attack.rate=.nan"], BadSpec, ["option rate"]),
        (["victim.layers=2.0"], BadSpec, ["option layers", "2.0"]),
        (["attack.="], BadSpec, ["'attack.' is no path"]),
        ([".rate=1"], BadSpec, ["'.rate' is no path"]),
        (["attack..rate=1"], BadSpec, ["'attack..rate' is no path"]),
        (["rate"], BadSpec, ["'rate' is no setting"]),
        (["seeds=[0"], BadSpec, ["'seeds=[0' cannot be read"]),
        (["attack={name: sub-ba, rate: 0.1, rate: 0.2}"], BadSpec, ["'rate' is given twice"]),
        (["title=2020-13-45"], BadSpec, ["cannot be read", "month"]),
        (["notes=" + "[" * 3000], BadSpec, ["nested too deeply"]),
        (["seeds=3"], BadSpec, ["option seeds"]),
        (["seeds=[]"], BadSpec, ["seeds is empty"]),
        (["seeds=[1, 2, 1]"], BadSpec, ["seeds lists 1 twice"]),
        (["seeds=[true]"], BadSpec, ["option seeds"]),
        ([f"seeds=[{2**70}]"], BadSpec, ["too large"]),
        (["purifiers=[fine-tune, {name: fine-tune, epochs: 30}]"], BadSpec, ["purifiers lists fine-tune twice"]),
        (["detectors=[spectral, spectral]"], BadSpec, ["detectors lists spectral twice"]),
        (["detectors=null"], BadSpec, ["option detectors", "list of names"]),
        (["trainer=[1]"], BadSpec, ["option trainer"]),
        (['notes="\\ud800"'], BadSpec, ["surrogates"]),
        (["vary={attack.rate: 0.1}"], BadSpec, ["vary: attack.rate needs a list", "0.1"]),
        (["vary={attack.rate: []}"], BadSpec, ["vary: attack.rate needs a list"]),
        (["vary={attack.ratee: [0.1]}"], UnknownName, ["attack.ratee=0.1", "did you mean 'rate'?"]),
        (["vary={attack.rate: [0.1, 7]}"], BadSpec, ["attack.rate=7", "<= 1.0"]),
        (["vary={atack.rate: [0.1]}"], UnknownName, ["vary: atack.rate", "did you mean 'attack'?"]),
        (["vary={vary: [{}]}"], UnknownName, ["vary: vary"]),
        (["vary={trainer.epochz: [1]}"], UnknownName, ["trainer.epochz=1", "did you mean 'epochs'?"]),
        (["vary={attack.rate.x: [1]}"], BadSpec, ["attack.rate.x", "no options"]),
        (["vary={attack.rate: [0.1, 0.1]}"], BadSpec, ["one cell twice", "attack.rate=0.1"]),
        (["vary={trainer: [{epochs: 2}, {epochs: 2, lr: 0.005}]}"], BadSpec, ["one cell twice", "seed 0"]),
        (["vary={title: [a, b]}"], BadSpec, ["one cell twice", "title=b"]),
        (["vary={seeds: [[0, 1], [1]]}"], BadSpec, ["one cell twice", "seed 1"]),
        (["vary={seeds: [[]]}"], BadSpec, ["seeds is empty"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_sentence(changes: list[str], kind: type[OstiaryError], parts: list[str]) -> None:
    refused(kind, {**TOY, "attack": {"name": "sub-ba", "rate": 0.1}}, *parts, changes=tuple(changes))


@pytest.mark.parametrize(
    ("source", "kind", "parts"),
    [
        (None, BadSpec, ["a plan is a YAML file, a mapping or a Plan", "None"]),
        (["toy-graphs"], BadSpec, ["a plan is a YAML file"]),
        ({}, BadSpec, ["names no dataset"]),
        ({1: 2}, UnknownName, ["no option '1'"]),
        ({**TOY, "victim": None}, BadSpec, ["victim", "None"]),
        ({**TOY, "attack": FineTune}, (BadSpec, UnknownName), ["attack"]),
        ({**TOY, "dataset": Path("a.npz")}, BadSpec, ["dataset"]),
        ({**TOY, "trainer": {"lr": object()}}, BadSpec, ["JSON"]),
    ],
)
def test_what_is_no_plan_is_refused(source: Any, kind: type[OstiaryError], parts: list[str]) -> None:
    refused(kind, source, *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["holds no settings"]),
        (b"# only a remark\n", ["holds no settings"]),
        (b"- dataset\n- victim\n", ["holds no settings"]),
        (b"just text", ["holds no settings"]),
        (b"notes: caf\xe9\n", ["no text in UTF-8"]),
        (b"\xff\xfe\x00", ["no text in UTF-8"]),
        (b"dataset: [1,\nvictim: 2", ["cannot be read as YAML", "line"]),
        (b"dataset: a\n\tvictim: b", ["cannot be read as YAML"]),
        (b"dataset: a\x00b", ["cannot be read as YAML"]),
        (b"dataset: a\n---\ndataset: b\n", ["cannot be read as YAML"]),
        (b"attack: a\nattack: b\n", ["'attack' is given twice"]),
        (b"attack: !!python/object/apply:os.system [date]\n", ["cannot be read as YAML"]),
        (b"attack: &a [*a]\n", ["cannot be read", "contains itself"]),
        (b"? [1, 2]\n: 3\n", ["cannot be read as YAML"]),
    ],
)
def test_a_bad_plan_file_is_refused_in_one_sentence(content: bytes, parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_bytes(content)
    refused(InvalidInput, file, "plan.yaml", *parts)


def test_a_plan_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    refused(InvalidInput, tmp_path, "is a folder")
    refused(InvalidInput, tmp_path / "no.yaml", "there is no plan file", "no.yaml")
    (tmp_path / "file").touch()
    refused(InvalidInput, tmp_path / "file" / "no.yaml", "no.yaml")


# records


def record(**changes: Any) -> Record:
    plan = read_plan(toy())[0].cells()[0].spec()
    metrics = {"victim": {"acc": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}}, "purifiers": {}, "detectors": {}}
    return Record("k" * 40, plan, metrics, {"data": 0.5}, ["a doubt"], "done", **changes)


def test_a_record_comes_back_as_it_was_saved() -> None:
    made = record(errors={"victim": "no"}, artefacts={"victim": {"weights": "a"}}, made=1.5, host={"cores": 2})
    assert decode_record(encode(made), "x") == made
    assert canonical(made.plan) == canonical(decode_record(encode(made), "x").plan)


@pytest.mark.parametrize("change", [{"surprise": 1}, {"seconds": "long"}, {"schema": SCHEMA + 1}, {"key": None}])
def test_a_foreign_record_is_refused(change: dict[str, Any]) -> None:
    body = {**msgspec.to_builtins(record()), **change}
    with pytest.raises(StoreError, match=r"the record here is .*; run its plan again") as error:
        decode_record(encode(body), "here")
    assert "\n" not in str(error.value)


@given(st.integers(0, 400), st.binary(max_size=3))
def test_no_damage_to_a_record_gives_anything_but_the_sentence(place: int, noise: bytes) -> None:
    body = encode(record())
    broken = body[:place] + noise
    with pytest.raises(StoreError, match="run its plan again"):
        decode_record(broken, "here")


def test_every_option_of_a_plan_is_checked() -> None:
    with pytest.raises(TypeError):
        Plan(**TOY, surprise=1)  # type: ignore[call-arg]
    assert read_plan(toy())[0].replace(seeds=(3,)).seeds == (3,)
