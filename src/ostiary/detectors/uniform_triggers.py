"""Triggers small enough to try all: a few subgraphs, with the nodes as they are or all of one kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ostiary.data.dataset import Dataset
from ostiary.detectors.panel import Panel
from ostiary.inversion import Recovery, placed
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.triggers.generator import feature_kind
from ostiary.triggers.mount import mount

HOSTS = 60  # clean graphs that carry a trigger, repeated if there are fewer
BARE = ("3 clique", "3 path", "4 clique", "4 cycle", "4 star", "4 path")
FILLED = ("3 clique", "3 none")  # and every node of one kind; 4 such nodes lead clean models far, too


def tried(structure: Panel, kinds: Panel, clean: Dataset, seed: int) -> tuple[list[str], Tensor]:
    """Names of all these triggers, and how far each leads the victim alone to every class: float64 [triggers, classes].

    The first panel judges those that change edges alone, the other those that change what nodes are."""
    hosts, names, margins = carriers(clean), list[str](), list[Tensor]()
    for name, stamped in triggered(hosts, seed):
        names.append(name)
        margins.append((structure if name in BARE else kinds).margins(stamped, hosts.y))
    bare = len(BARE)  # which come first
    leads = structure.leads(margins[:bare])
    return names, leads if len(names) == bare else torch.cat([leads, kinds.leads(margins[bare:])])


def carriers(clean: Dataset) -> Dataset:
    """The clean graphs, repeated to at least `HOSTS`, with ids of their own, so that positions differ."""
    rows = torch.arange(len(clean), device=clean.y.device).repeat(-(-HOSTS // len(clean)))
    return replace(clean.take(rows), ids=torch.arange(len(rows), device=rows.device))


def triggered(hosts: Dataset, seed: int) -> Iterator[tuple[str, Graphs]]:
    """The graphs with each trigger on nodes drawn at random, the same ones for every trigger of a size."""
    graphs, kind = hosts.inputs, feature_kind(hosts.inputs)
    width = graphs.x.shape[1]
    at = {n: placed(graphs, Recovery(n).anywhere(hosts, seed)) for n in (3, 4)}
    for shape in BARE:
        n, adjacency = edges(shape)
        stamped = mount(graphs, at[n], adjacency.to(graphs.x.device))
        yield shape, with_degrees(stamped) if kind == "degree" else stamped
    for column in range(width if kind == "one-hot" else 0):
        for shape in FILLED:
            n, adjacency = edges(shape)
            rows = graphs.x.new_zeros(len(graphs), n, width)
            rows[..., column] = 1.0
            yield (
                f"{shape} of kind {hosts.kinds[column] if hosts.kinds else column}",
                mount(graphs, at[n], adjacency.to(graphs.x.device), rows),
            )


def edges(shape: str) -> tuple[int, Tensor]:
    """Nodes, and the adjacency matrix, of a shape such as "3 clique"."""
    size, what = shape.split()
    n = int(size)
    i = torch.arange(n)
    apart = (i[:, None] - i).abs()
    matrix = {
        "clique": apart > 0,
        "none": apart < 0,
        "path": apart == 1,
        "cycle": (apart == 1) | (apart == n - 1),
        "star": (apart > 0) & ((i == 0) | (i[:, None] == 0)),
    }[what]
    return n, matrix.float()
