"""Components: strict building, exact specs, near misses, labels, the catalogue."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
import torch

from ostiary import component
from ostiary.attacks.badnets import BadNets
from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import AllToAll, AllToOne, LabelRule
from ostiary.component import Component, build, catalogue, hints, lookup, plain
from ostiary.detectors.base import Detector
from ostiary.detectors.spectral import Spectral
from ostiary.errors import BadSpec, InvalidInput, OstiaryError, UnknownName
from ostiary.experiment.plan import read_plan
from ostiary.triggers.subgraph import Subgraph

Small = Annotated[int, msgspec.Meta(ge=0, le=9)]


class Thing(Component):
    """Not registered."""

    kind: ClassVar[str] = "thing"
    name: ClassVar[str] = "thing"
    size: Small = 3
    share: float = 0.5
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    sizes: tuple[int, ...] = (1, 2)
    rule: LabelRule = AllToOne()
    maybe: LabelRule | None = None
    parts: tuple[Detector, ...] = ()
    free: dict[str, Any] = dataclasses.field(default_factory=dict)


# building


def test_name_mapping_class_and_instance_give_the_same() -> None:
    expected = BadNets()
    assert build("attack", "badnets") == expected
    assert build("attack", {"name": "badnets"}) == expected
    assert build("attack", BadNets) == expected
    assert build("attack", expected) is expected
    assert build("attack", {"name": "badnets", "size": 2}) == BadNets(size=2) != expected


@pytest.mark.parametrize(
    "what", ["badnets", {"name": "badnets", "size": 2, "labels": "all-to-all"}, {"name": "sub-ba", "rate": 1}]
)
def test_spec_is_json_and_builds_the_same_again(what: Any) -> None:
    part = build("attack", what)
    spec = json.loads(json.dumps(part.spec()))
    assert build("attack", spec) == part
    assert build("attack", spec).spec() == spec
    assert set(spec) == {"name", *hints(type(part))}


@pytest.mark.parametrize(
    ("kind", "what", "words"),
    [
        ("attack", "badnet", "unknown attack 'badnet'; did you mean 'badnets'"),
        ("attack", "quite-different", "unknown attack 'quite-different'; known: .*badnets"),
        ("attack", {"name": "badnets", "siez": 2}, "attack 'badnets' has no option 'siez'; did you mean 'size'"),
        ("attack", {"name": "badnets", "labels": "all-to-ten"}, "unknown labels 'all-to-ten'; did you mean"),
        ("atack", "badnets", "there is no room 'atack'; did you mean 'attack'"),
    ],
)
def test_near_misses_are_offered(kind: str, what: Any, words: str) -> None:
    with pytest.raises(UnknownName, match=words) as caught:
        build(kind, what)
    assert isinstance(caught.value, KeyError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"name": "badnets", "size": "3"}, "option size: .*expected.*int.*got '3'"),
        ({"name": "badnets", "size": 3.0}, "option size"),
        ({"name": "badnets", "size": True}, "option size"),
        ({"name": "badnets", "size": 0}, "option size: .*>= 1.*got 0"),
        ({"name": "badnets", "rate": 1.5}, "option rate: .*<= 1"),
        ({"name": "badnets", "corner": "middle"}, "option corner: .*'middle'"),
        ({"name": "badnets", "labels": 3}, "labels is given by its name"),
        ({"size": 3}, "an attack is given by its name or a mapping with a 'name'"),
        (3, "given by its name"),
        (None, "given by its name"),
        (Spectral(), "expected an attack, got the detector 'spectral'"),
        (Spectral, "expected an attack, got the detector 'spectral'"),
    ],
)
def test_wrong_types_and_ranges_are_refused(what: Any, words: str) -> None:
    with pytest.raises(BadSpec, match=words) as caught:
        build("attack", what)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("attack", {"name": "gta-node", "natural": -0.1}),
        ("attack", {"name": "ugba", "weight": -1.0}),
        ("attack", {"name": "wanet", "cross_ratio": -1.0}),
        ("attack", {"name": "wanet-mt", "strength": [0.5, -0.5]}),
        ("detector", {"name": "xgbd", "flooding": -0.1}),
        ("explainer", {"name": "gnn-explainer", "edge_size": -0.1}),
        ("explainer", {"name": "pg-explainer", "edge_ent": -1.0}),
        ("purifier", {"name": "gcleaner", "retain": -2.0}),
        ("purifier", {"name": "nad", "betas": [1.0, -1.0]}),
        ("purifier", {"name": "npd", "max_norm": -1.0}),
        ("purifier", {"name": "npd", "weights": [0.4, 0.4, -0.4]}),
        ("purifier", {"name": "sau", "clean": -1.0}),
        ("trainer", {"name": "trainer", "max_norm": -1.0}),
    ],
)
def test_weights_and_norms_are_not_negative(kind: str, what: Any) -> None:
    option = list(what)[1]
    with pytest.raises(BadSpec, match=f"option {option}: expected float >= 0.0.*got") as caught:
        build(kind, what)
    assert "\n" not in str(caught.value)


def test_fields_are_checked_as_strictly_in_python_as_in_a_plan() -> None:
    with pytest.raises(BadSpec, match="option size: expected int <= 9; got 10"):
        Thing(size=10)
    with pytest.raises(BadSpec, match=r"option sizes: expected a list, like sizes=\[5\]; got 5"):
        Thing(sizes=5)
    with pytest.raises(BadSpec, match="option sizes: expected int, got str; got"):
        Thing(sizes=["5"])
    with pytest.raises(BadSpec, match="expected a list of names, got 3"):
        Thing(parts=3)
    with pytest.raises(TypeError):
        Thing(unheard=1)
    with pytest.raises(TypeError):
        Thing(3)
    with pytest.raises(AttributeError):
        Thing().size = 4


@pytest.mark.parametrize("what", ["npz", {"name": "npz"}, {"name": "npz", "test_rate": 0.3}, lookup("dataset", "npz")])
def test_options_that_it_cannot_do_without_are_asked_for_by_name(what: Any) -> None:
    with pytest.raises(BadSpec) as caught:
        build("dataset", what)
    assert str(caught.value) == "dataset 'npz' needs the option 'path'; see ostiary options dataset npz"


def test_several_missing_options_are_asked_for_at_once() -> None:
    with pytest.raises(BadSpec, match="trigger 'subgraph' needs the options 'size', 'edges'; see"):
        build("trigger", "subgraph")


def test_values_widen_only_where_nothing_is_lost() -> None:
    thing = Thing(share=1, sizes=[4, 5], rule="all-to-all", parts="spectral", free={"a": [1, 2]})
    assert (thing.share, type(thing.share)) == (1.0, float)
    assert thing.sizes == (4, 5)
    assert thing.rule == AllToAll()
    assert thing.parts == (Spectral(),)
    assert Thing(parts=["spectral", {"name": "spectral", "eps": 0.2}]).parts[1].eps == 0.2
    assert Thing(maybe=None).maybe is None
    assert Thing(maybe="all-to-one").maybe == AllToOne()


def test_nested_parts_are_plain_in_the_spec() -> None:
    spec = Thing(parts="spectral").spec()
    assert spec["rule"] == {"name": "all-to-one"}
    assert spec["maybe"] is None
    assert spec["sizes"] == [1, 2]
    assert spec["parts"][0]["name"] == "spectral"
    assert json.loads(json.dumps(spec)) == spec


def test_classes_that_leave_a_step_open_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="abstract"):
        PoisoningAttack()


# names, labels, equality


def test_label_shows_what_differs_from_the_defaults() -> None:
    assert BadNets().label() == "badnets"
    assert BadNets(size=2, labels=AllToAll()).label() == "badnets(labels=all-to-all, size=2)"


def test_equality_and_hash_follow_the_spec() -> None:
    assert BadNets(size=2) == BadNets(size=2)
    assert BadNets(size=2) != BadNets(size=3)
    assert len({BadNets(size=2), BadNets(size=2), BadNets()}) == 2
    assert BadNets().replace(size=5) == BadNets(size=5)
    with pytest.raises(BadSpec):
        BadNets().replace(size=-1)


def test_learnt_state_is_no_option() -> None:
    trigger = Subgraph(size=2, edges=((0, 1),), state={"w": torch.ones(2)})
    assert "state" not in trigger.spec()
    assert "state" not in hints(Subgraph)
    with pytest.raises(UnknownName, match="no option 'state'"):
        build("trigger", {"name": "subgraph", "size": 2, "edges": [], "state": {}})
    spec, tensors = trigger.pack()
    assert torch.equal(Subgraph.unpack(spec, tensors).state["w"], torch.ones(2))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """A copy, so that names given here do not outlive the test."""
    lookup("victim", "preact-resnet")  # what a test imports first would be registered in the copy alone
    own = dict(component._registry)
    monkeypatch.setattr(component, "_registry", own)
    return own


def test_a_part_that_must_be_a_certain_one_refuses_others_of_its_kind() -> None:
    with pytest.raises(BadSpec, match=r"option explainer: works with gnn-explainer only; got 'grad-cam'"):
        build("detector", {"name": "seven-metrics", "explainer": "grad-cam"})
    with pytest.raises(BadSpec, match=r"option scan: works with neural-cleanse only; got 'strip'"):
        build("purifier", {"name": "nc-unlearn", "scan": "strip"})
    assert component.registered(lookup("explainer", "gnn-explainer")) == ["gnn-explainer"]


def test_what_has_no_name_is_no_part_of_a_plan(registry: dict[Any, Any]) -> None:
    class Nameless(PoisoningAttack):
        modalities = frozenset({"image"})

        def make_trigger(self, train: Any, ctx: Any) -> Any:
            raise AssertionError("not reached")

    said = "an attack has no name, by which plans and records know it; write class Mine"
    for what in (Nameless, Nameless()):
        with pytest.raises(BadSpec, match=said):
            read_plan({"dataset": "digits", "victim": "preact-resnet", "attack": what})[0].cells()


def test_a_name_is_given_once(registry: dict[Any, Any]) -> None:
    lookup("attack", "badnets")
    with pytest.raises(
        BadSpec, match=r"two attacks are called 'badnets': ostiary\.attacks\.badnets.* and elsewhere\.Other; rename one"
    ):
        type("Other", (PoisoningAttack,), {"__module__": "elsewhere"}, name="badnets")


def test_third_parties_register_through_entry_points(registry: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        name = value = "mine"

        @staticmethod
        def load() -> None:
            class Mine(Detector, name="mine"):
                modalities = frozenset({"graph"})
                needs = frozenset({"train"})
                about = "train"

                def examine(self, evidence: Any, ctx: Any) -> Any:
                    raise NotImplementedError

    monkeypatch.setattr(component.metadata, "entry_points", lambda group: [Plugin] if group == "ostiary.plugins" else [])
    assert build("detector", "mine").name == "mine"
    assert ("mine", __name__, ("graph",)) in [(e.name, e.module, e.modalities) for e in component.listed(["detector"])]
    with pytest.raises(UnknownName, match="unknown detector 'mien'; did you mean 'mine'"):
        build("detector", "mien")


def test_a_plugin_that_cannot_be_imported_is_named_once_and_the_others_work(
    registry: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = component.metadata.EntryPoint("mine", "no_such_package.methods", "ostiary.plugins")
    monkeypatch.setattr(component.metadata, "entry_points", lambda group: [broken])
    monkeypatch.setattr(component, "_broken", set())
    for _ in range(2):
        with pytest.raises(UnknownName, match="did you mean 'badnets'"):
            build("attack", "badnet")
    assert len(component.listed(["attack"])) > 10
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1 and said[0].startswith(
        "the plugin 'mine' (no_such_package.methods) cannot be used: ModuleNotFoundError"
    )


METHOD = """
from ostiary.detectors.base import Detector

class OfAFile(Detector, name="of-a-file"):
    modalities, needs, about = frozenset({"graph"}), frozenset({"train"}), "train"

    def examine(self, evidence, ctx):
        raise NotImplementedError
"""


def test_files_of_methods_are_named_by_the_environment(
    registry: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("method_of_a_file", "random", "method_that_fails"):
        (tmp_path / f"{name}.py").write_text(METHOD if name == "method_of_a_file" else "1 / 0\n", encoding="utf-8")
    with pytest.raises(UnknownName, match="of-a-file"):
        build("detector", "of-a-file")
    monkeypatch.setenv("OSTIARY_PLUGINS", f"{tmp_path / 'method_of_a_file.py'}{os.pathsep}")
    found = build("detector", "of-a-file")
    assert type(found).__module__ == "method_of_a_file" and found.revisions() == {"code of detector of-a-file": found.source}
    assert "of-a-file" in [e.name for e in component.listed(["detector"])]
    for name, why in (
        ("random", "another module is called 'random'"),
        ("method_that_fails", "cannot be imported: ZeroDivisionError: division by zero"),
        ("none", "is no Python file"),
    ):
        monkeypatch.setenv("OSTIARY_PLUGINS", str(tmp_path / f"{name}.py"))
        with pytest.raises(InvalidInput, match=why):
            component.listed(["detector"])
    monkeypatch.setenv("OSTIARY_PLUGINS", "~nobody-has-this-name/mine.py")
    with pytest.raises(InvalidInput, match="no home folder is known here for the ~"):
        component.listed(["detector"])
    sys.modules.pop("method_of_a_file")


def made(**body: Any) -> Any:
    """A detector whose class body is this."""
    return type("Mine", (Detector,), {"__module__": "elsewhere", "examine": lambda *_: None, **body}, name="mine")


HELD: dict[str, Any] = {"modalities": frozenset({"graph"}), "needs": frozenset({"train"}), "about": "train"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({k: v for k, v in HELD.items() if k != "needs"}, "detector 'mine' does not say its needs; write needs = ..."),
        ({k: v for k, v in HELD.items() if k != "about"}, "detector 'mine' does not say its about"),
        ({**HELD, "modalities": "graph"}, r"modalities is 'graph', expected a set of names; write modalities = frozenset"),
        ({**HELD, "needs": ("train",)}, r"needs is \('train',\), expected a set of names"),
        ({**HELD, "scale": 0.5}, "'scale' has no type, so that it is no option; write scale: float = 0.5"),
        ({**HELD, "__annotations__": {"label": int}, "label": 3}, "its option 'label' has the name of something"),
        ({**HELD, "__annotations__": {"name": str}}, "its option 'name' has the name of something that every component has"),
        ({**HELD, "presets": {"paper": {"scal": 2}}}, "its preset 'paper' sets 'scal', which is no option; known: none"),
    ],
)
def test_slips_in_a_class_are_told_as_it_is_made(registry: dict[Any, Any], body: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec, match=words):
        made(**body)
    assert ("detector", "mine") not in registry
    assert made(**HELD).name == "mine"


def test_of_a_class_that_is_in_no_file_it_is_said_once_what_that_means(
    registry: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    part = made(**HELD)()
    assert part.source is None and part.revisions() == part.revisions() == {}
    (said,) = [r.getMessage() for r in caplog.records]
    assert said.startswith("the detector 'mine' is made where there is no file") and "raise its `revision`" in said


def test_two_classes_of_one_file_may_not_share_a_name_but_a_cell_may_run_again(registry: dict[Any, Any]) -> None:
    assert made(**HELD) is not made(**HELD)
    with pytest.raises(BadSpec, match=r"two detectors are called 'mine': elsewhere\.Mine and elsewhere\.Other; rename one"):
        type("Other", (Detector,), {"__module__": "elsewhere", "examine": lambda *_: None, **HELD}, name="mine")


# the catalogue


def test_catalogue_agrees_with_the_classes() -> None:
    entries = catalogue()
    assert len(entries) > 20
    for entry in entries:
        cls = lookup(entry.kind, entry.name)
        assert (cls.kind, cls.name, cls.__module__) == (entry.kind, entry.name, entry.module)
        assert (cls.__doc__ or "").split("\n")[0] == entry.summary
        if entry.modalities:
            assert set(entry.modalities) == set(cls.modalities)


def test_a_name_imports_only_its_own_file() -> None:
    code = (
        "import sys; from ostiary.component import lookup; lookup('attack', 'badnets');"
        "print([m for m in ('ostiary.attacks.sub_ba', 'ostiary.attacks.blended') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"


def test_errors_read_as_one_sentence() -> None:
    assert str(UnknownName("a sentence")) == "a sentence"
    assert all(issubclass(e, OstiaryError) for e in (UnknownName, BadSpec))
    assert plain((1, (2, {"a": AllToOne()}))) == [1, [2, {"a": {"name": "all-to-one"}}]]


# presets


class Baked(Component):
    """Not registered; `paper` is how a paper has it."""

    kind: ClassVar[str] = "thing"
    name: ClassVar[str] = "thing"
    name: ClassVar[str] = "baked"
    presets = {"paper": {"heat": 200, "hours": 3}}
    heat: int = 180
    hours: int = 1
    lid: bool = False


def test_a_preset_is_a_starting_point_that_options_may_change() -> None:
    assert Baked.preset("paper") == Baked(heat=200, hours=3)
    assert Baked.preset("paper", lid=True, hours=2) == Baked(heat=200, hours=2, lid=True)
    with pytest.raises(UnknownName, match="has no preset 'papr'; did you mean 'paper'"):
        Baked.preset("papr")


def test_labels_name_the_preset_where_that_is_shorter() -> None:
    assert Baked().label() == "baked"
    assert Baked(heat=200).label() == "baked(heat=200)"
    assert Baked.preset("paper").label() == "baked(preset=paper)"
    assert Baked.preset("paper", lid=True).label() == "baked(preset=paper, lid=True)"


def test_plans_name_a_preset_beside_options() -> None:
    paper = build("purifier", {"name": "gcleaner", "preset": "paper"})
    assert (paper.nodes, paper.optimizer, paper.rounds) == (3, "sgd", 1)
    assert build("purifier", paper.spec()) == paper
    assert paper.label() == "gcleaner(preset=paper)"
    assert build("purifier", {"name": "gcleaner", "preset": "paper", "nodes": 5}).label() == "gcleaner(preset=paper, nodes=5)"


def test_an_option_that_came_later_leaves_the_spec_as_it_was_at_its_default() -> None:
    usual, other = build("purifier", "sau"), build("purifier", {"name": "sau", "schedule": "cosine"})
    assert "schedule" not in usual.spec() and other.spec()["schedule"] == "cosine" and usual.label() == "sau"
    assert build("purifier", usual.spec()) == usual and build("purifier", other.spec()) == other
    assert {k: v for k, v in other.spec().items() if k != "schedule"} == usual.spec()
