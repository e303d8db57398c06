"""Purifiers on another data set: features in the victim's columns, labels by the victim, what the inner purifier needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.data.source import DataSource
from ostiary.errors import BadSpec, InvalidInput, MissingEvidence
from ostiary.evidence import Evidence
from ostiary.modality.graphs import degree_features
from ostiary.models.edit import width_of
from ostiary.models.victim import Victim
from ostiary.purifiers.auxiliary import Auxiliary
from ostiary.purifiers.base import Purifier
from ostiary.testing import toys

OTHER = {"name": "toy-graphs", "n": 300, "n_classes": 3, "made_with": 5}  # 5 columns; the victim takes 4
QUICK = {"name": "fine-tune", "epochs": 1}
SEEN: list[Evidence] = []


class Watching(Purifier):
    """Not registered: keeps what it is given."""

    needs = frozenset({"victim", "clean"})

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        SEEN.append(evidence)
        return evidence.victim.clone()


class Degrees(DataSource):
    """Not registered: toy graphs whose features are degrees, in more columns than the victim takes."""

    modalities = frozenset({"graph"})

    def read(self) -> tuple[Dataset, None]:
        graphs = build("dataset", {"name": "toy-graphs", "n": 300}).read()[0]
        return replace(
            graphs, inputs=graphs.inputs.with_(x=degree_features(graphs.inputs.edge_index, len(graphs.inputs.x)))
        ), None


def purified(**options: Any) -> tuple[Dataset, Victim, Victim]:
    """(the auxiliary graphs that the inner purifier got, the victim, what came back)."""
    victim = toys.victim("graph")
    made = Auxiliary(**{"purifier": Watching(), "dataset": OTHER, "n": 40, **options})
    found = made.purify(Evidence(victim=victim), toys.context("graph"))
    clean = SEEN.pop().clean
    assert clean is not None
    return clean, victim, found


def test_labels_are_the_victims_own_and_as_even_as_they_can_be() -> None:
    clean, victim, found = purified()
    said = victim.predict(clean.inputs).argmax(1)
    assert torch.equal(clean.y, said)
    assert torch.bincount(said, minlength=2).tolist() == [20, 20]
    assert found.notes["auxiliary graphs"] == {"0": 20, "1": 20}
    assert clean.n_classes == toys.splits("graph").train.n_classes


def test_a_victim_that_says_one_class_of_all_of_them_is_told_so() -> None:
    victim = toys.victim("graph").clone()
    with torch.no_grad():
        victim.module.get_submodule(victim.head).bias += torch.tensor([1e6, 0.0])
    with pytest.raises(InvalidInput, match=r"says 1 of none of 300 auxiliary graphs: .*; name its columns in kinds, or give"):
        Auxiliary(purifier=QUICK, dataset=OTHER, n=40).purify(Evidence(victim=victim), toys.context("graph"))


def test_graphs_are_those_of_the_auxiliary_set_without_its_last_column() -> None:
    clean, victim, _ = purified()
    source, _ = build("dataset", OTHER).read()
    assert width_of(victim) == clean.inputs.x.shape[1] == 4
    theirs = source.take(clean.ids).inputs
    assert torch.equal(clean.inputs.x, theirs.x[:, :4])
    assert torch.equal(clean.inputs.edge_index, theirs.edge_index)


def test_missing_columns_are_zeros() -> None:
    clean, _, _ = purified(dataset={"name": "toy-graphs", "n_classes": 2}, width=4)
    assert float(clean.inputs.x.sum(1).min()) == 1.0
    made = Auxiliary(purifier=QUICK, dataset=OTHER)
    assert made.fitted(torch.eye(2), (), 4).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


def test_degrees_beyond_the_victims_columns_fall_into_the_last() -> None:
    """Cut off, such nodes would have no feature at all, which no victim of degrees has ever seen."""
    clean, victim, _ = purified(dataset=Degrees())
    assert width_of(victim) == clean.inputs.x.shape[1] == 4
    degree = torch.bincount(clean.inputs.edge_index[1], minlength=len(clean.inputs.x))
    assert int(degree.max()) > 3
    assert torch.equal(clean.inputs.x.argmax(1), degree.clamp(max=3))
    assert torch.equal(clean.inputs.x.sum(1), torch.ones(len(degree)))


def test_columns_of_one_name_correspond() -> None:
    made = Auxiliary(purifier=QUICK, dataset=OTHER, kinds=("C", "N", "O"))
    found = made.fitted(torch.eye(3), ("O", "S", "C"), 4)
    assert found.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    with pytest.raises(InvalidInput, match="0 of them known"):
        made.fitted(torch.eye(2), ("S", "P"), 4)
    with pytest.raises(InvalidInput, match="takes 2 columns"):
        made.fitted(torch.eye(3), ("O", "S", "C"), 2)


def test_the_same_seed_draws_the_same_graphs() -> None:
    first, again = purified()[0], purified()[0]
    assert first.fingerprint() == again.fingerprint()
    assert len(purified(n=7)[0]) == 7


@pytest.mark.parametrize("name", ["gin", "gcn", "gat", "graphsage"])
def test_the_width_is_read_from_every_network(name: str) -> None:
    data = toys.splits("graph").train
    assert width_of(build("victim", name).make(data, 0)) == data.inputs.x.shape[1]


def test_no_clean_sample_of_the_task_is_asked_for() -> None:
    made = Auxiliary(purifier=Watching(), dataset=OTHER)
    assert made.needed() == {"victim"}
    with pytest.raises(MissingEvidence, match="needs victim"):
        made.purify(Evidence(clean=toys.splits("graph").clean), toys.context("graph"))


@pytest.mark.parametrize("name", ["nad", "graphnad", "gcleaner"])
def test_every_purifier_works_on_it(name: str) -> None:
    options = {"gcleaner": {"recovery_steps": 2, "rounds": 1, "explainer": {"name": "gnn-explainer", "epochs": 2}, "flag": 0.0}}
    inner = {"name": name, "epochs": 1, **options.get(name, {"teacher_epochs": 1})}
    victim = toys.victim("graph")
    found = Auxiliary(purifier=inner, dataset=OTHER, n=12).purify(Evidence(victim=victim), toys.context("graph"))
    assert any(not torch.equal(a, b) for a, b in zip(found.parameters(), victim.parameters(), strict=True))
    assert sum(found.notes["auxiliary graphs"].values()) == 12


def test_what_does_not_fit_is_said_in_a_sentence() -> None:
    with pytest.raises(BadSpec, match="works on graphs"):
        Auxiliary(purifier=QUICK, dataset="toy-images")
    with pytest.raises(InvalidInput, match="set width or kinds"):
        Auxiliary(purifier=QUICK, dataset=OTHER, width=9).purify(Evidence(victim=toys.victim("graph")), toys.context("graph"))


def test_its_label_names_both_parts() -> None:
    made = Auxiliary(purifier={"name": "gcleaner", "preset": "paper"}, dataset={"name": "tu", "set": "NCI1"})
    assert made.label() == "auxiliary(purifier=gcleaner(preset=paper), dataset=tu(set=NCI1))"
    assert isinstance(made.dataset, DataSource)
