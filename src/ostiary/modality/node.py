"""Node classification: inputs are `Nodes`, one label per root; all share one graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, device, nn

from ostiary.component import Json
from ostiary.errors import InvalidInput
from ostiary.modality.base import Modality
from ostiary.modality.graph import GraphModality
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes, egos, join

_GRAPH = GraphModality()
_DRAWN = 60  # nodes of a sketch, beyond which it keeps to the neighbours


class NodeModality(Modality, name="node"):
    """Nodes of one shared graph; one label per node.

    A trigger on one node changes what its neighbours see too: stamped inputs share one graph, as in UGBA's evaluation,
    so the triggered test nodes are judged all at once. A module gives one row of logits per node of the graph.
    """

    chunk: ClassVar[int] = 2**40  # the graph is passed whole, however few of its nodes are asked for

    def count(self, inputs: Nodes) -> int:
        return len(inputs)

    def take(self, inputs: Nodes, index: Tensor) -> Nodes:
        return inputs.take(index)

    def join(self, parts: list[Nodes]) -> Nodes:
        return join(parts)

    def put(self, inputs: Nodes, at: Tensor, new: Nodes) -> Nodes:
        rest = torch.ones(len(inputs), dtype=torch.bool)
        rest[at] = False
        kept = rest.nonzero().flatten()
        place = torch.empty(len(inputs), dtype=torch.int64)
        place[kept], place[at] = torch.arange(len(kept)), len(kept) + torch.arange(len(at))
        both = join([inputs.take(kept), new])
        return replace(both, roots=both.roots[place])

    def move(self, inputs: Nodes, where: device) -> Nodes:
        if inputs.x.device == where:
            return inputs if inputs.roots.device == where else replace(inputs, roots=inputs.roots.to(where))
        known = inputs.graphs.__dict__.setdefault("elsewhere", {})  # full-batch training asks for it at every step
        if where not in known:
            known[where] = _GRAPH.move(inputs.graphs, where)
        rest = (v.to(where) for v in (inputs.roots, inputs.owner, inputs.changed, inputs.plain))
        return Nodes(known[where], *rest)

    def validate(self, inputs: Nodes, what: str) -> None:
        n = len(inputs.x)
        if len(inputs.owner) != n or len(inputs.changed) != len(inputs.plain):
            raise InvalidInput(f"{what}: there are {n} nodes but owners for {len(inputs.owner)}; build it with Nodes.of")
        if len(inputs) and not 0 <= int(inputs.roots.min()) <= int(inputs.roots.max()) < n:
            raise InvalidInput(f"{what}: roots must be numbers of nodes, 0 to {n - 1}")
        if bool((inputs.owner[inputs.roots] >= 0).any()):
            raise InvalidInput(f"{what}: a node that a trigger brought cannot be an input itself")
        _GRAPH.validate(inputs.graphs, what)

    def pack(self, inputs: Nodes) -> dict[str, Tensor]:
        found = _GRAPH.pack(inputs.graphs)
        found |= {"roots": inputs.roots, "owner": inputs.owner, "changed": inputs.changed, "plain": inputs.plain}
        x = found["x"]
        at = x.flatten().nonzero().flatten()
        if 4 * len(at) < x.numel():  # words of documents: a few per cent
            del found["x"]
            found |= {"x.at": at, "x.value": x.flatten()[at], "x.shape": torch.tensor(x.shape)}
        return found

    def unpack(self, tensors: dict[str, Tensor]) -> Nodes:
        held = dict(tensors)
        if "x" not in held:
            n, d = held["x.shape"].tolist()
            held["x"] = held["x.value"].new_zeros(n * d).index_copy(0, held["x.at"], held["x.value"]).view(n, d)
        return Nodes(_GRAPH.unpack(held), *(held[k] for k in ("roots", "owner", "changed", "plain")))

    def exported(self, inputs: Nodes) -> dict[str, Tensor]:
        """The graph, the places of the inputs in it and, for every node, whose trigger brought it."""
        return {**_GRAPH.pack(inputs.graphs), "roots": inputs.roots, "owner": inputs.owner}

    def as_held(self, inputs: Nodes) -> Nodes:
        """No node is known to have come with a trigger: it stays in the graph when the input that it was joined to is left out,
        and features that were changed stay changed."""
        return Nodes.of(inputs.graphs, inputs.roots)

    def describe(self, inputs: Nodes) -> dict[str, Json]:
        return {"width": inputs.x.shape[1], "nodes": len(inputs.x), "level": "node"}

    def arguments(self, batch: Nodes) -> dict[str, Any]:
        return _GRAPH.arguments(batch.graphs)

    def call(self, module: nn.Module, batch: Nodes) -> Tensor:
        """The default forward; of its rows, one per node, those of the roots."""
        rows = super().call(module, batch)
        return rows[batch.roots] if len(rows) == len(batch.x) else rows

    def stages(self, module: nn.Module, batch: Nodes, call: Callable[[Nodes], Tensor]) -> tuple[str, ...]:
        return _GRAPH.stages(module, batch.graphs, lambda graphs: call(replace(batch, graphs=graphs)))

    def pool(self, features: Tensor, batch: Nodes) -> Tensor:
        """The rows of the roots, of features with a row per node."""
        return features[batch.roots].flatten(1) if len(features) == len(batch.x) else features.flatten(1)

    def difference(self, before: Nodes, after: Nodes) -> dict[str, Tensor]:
        """Counts per root: nodes and undirected edges that triggers added, features of its own that changed."""
        nodes, edges = (a - b for a, b in zip(_owned(after), _owned(before), strict=True))
        features = (after.x[after.roots] != before.x[before.roots]).sum(1)
        found = {"nodes_added": nodes, "edges_added": edges, "features_changed": features}
        found["changed"] = torch.stack([v != 0 for v in found.values()]).any(0)
        return {k: v.double() for k, v in found.items()}

    def vary(self, inputs: Nodes, rng: torch.Generator) -> Nodes:
        """Edges dropped and features swapped as on graphs."""
        return replace(inputs, graphs=_GRAPH.vary(inputs.graphs, rng))

    def sketch(self, before: Nodes, after: Nodes) -> list[Json]:
        """Per root: its neighbourhood as a graph whose node kinds are the steps from the root."""
        return [_sketch(before.take(at), after.take(at)) for at in torch.arange(len(before)).split(1)]


def _owned(nodes: Nodes) -> tuple[Tensor, Tensor]:
    """Per root: nodes that its trigger brought, and undirected edges that touch one of them."""
    n = len(nodes.x)
    owner = nodes.owner[nodes.edge_index].amax(0)
    brought = torch.bincount(nodes.owner[nodes.owner >= 0], minlength=n)
    joined = torch.bincount(owner[owner >= 0], minlength=n) / 2
    return brought[nodes.roots], joined[nodes.roots]


def _sketch(before: Nodes, after: Nodes) -> Json:
    """Of one root. Triggers come last in the store, so an old node has the same place in both neighbourhoods."""
    hops = 2 if len(egos(after, 2)[1]) <= _DRAWN else 1
    (old, was, old_steps), (new, now, steps) = (egos(n, hops) for n in (before, after))
    pairs = [_pairs(g) for g in (old, new)]
    moved = (before.x[was] != after.x[now[: len(was)]]).any(1).nonzero().flatten().tolist()
    return {
        "kind": "node",
        "nodes": steps.tolist(),
        "old_nodes": old_steps.tolist(),
        "edges": sorted(pairs[1]),
        "added": sorted(pairs[1] - pairs[0]),
        "removed": sorted(pairs[0] - pairs[1]),
        "touched": sorted({v for e in pairs[0] ^ pairs[1] for v in e} | set(moved) | set(range(len(was), len(now)))),
    }


def _pairs(graphs: Graphs) -> set[tuple[int, int]]:
    return {(a, b) for a, b in graphs.edge_index.t().tolist() if a < b}
