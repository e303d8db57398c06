"""Graph classification: inputs are `Graphs`, one label per graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, device, nn

from ostiary.component import Json
from ostiary.devices import exact
from ostiary.errors import InvalidInput
from ostiary.modality.base import Modality
from ostiary.modality.graphs import Graphs, are_degrees, join, with_degrees
from ostiary.modality.sparse import bag_sum, pointer, ranges


class GraphModality(Modality, name="graph"):
    """Whole graphs with node features; one label per graph."""

    def count(self, inputs: Graphs) -> int:
        return len(inputs)

    def take(self, inputs: Graphs, index: Tensor) -> Graphs:
        return inputs.take(index)

    def join(self, parts: list[Graphs]) -> Graphs:
        return join(parts)

    def put(self, inputs: Graphs, at: Tensor, new: Graphs) -> Graphs:
        order = torch.arange(len(inputs))
        order[at] = len(inputs) + torch.arange(len(at))
        return join([inputs, new]).take(order)

    def move(self, inputs: Graphs, where: device) -> Graphs:
        if inputs.x.device == where:
            return inputs
        return Graphs(*(None if v is None else v.to(where) for v in _columns(inputs)))  # type: ignore[arg-type]

    def validate(self, inputs: Graphs, what: str) -> None:
        empty = (inputs.n_nodes == 0).nonzero().flatten()
        if len(empty):
            raise InvalidInput(f"{what}: {len(empty)} graph(s) have no node, the first at {int(empty[0])}; drop them")
        if not bool(torch.isfinite(inputs.x).all()):
            row = int((~torch.isfinite(inputs.x)).any(1).nonzero()[0])
            graph = int(inputs.batch[row])
            raise InvalidInput(f"{what}: node features of graph {graph} hold NaN or infinity; repair or drop it")
        if inputs.edge_index.shape[1] == 0:
            raise InvalidInput(f"{what}: no graph has an edge, so a graph network has nothing to pass along")
        source, target = inputs.edge_index
        if bool((inputs.batch[source] != inputs.batch[target]).any()):
            raise InvalidInput(f"{what}: an edge joins two graphs; node numbers must stay within their graph")

    def pack(self, inputs: Graphs) -> dict[str, Tensor]:
        found = {"x": inputs.x, "edge_index": inputs.edge_index, "n_nodes": inputs.n_nodes, "n_edges": inputs.n_edges}
        if inputs.edge_attr is not None:
            found["edge_attr"] = inputs.edge_attr
        return found

    def unpack(self, tensors: dict[str, Tensor]) -> Graphs:
        ptr, edge_ptr = pointer(tensors["n_nodes"]), pointer(tensors["n_edges"])
        return Graphs(tensors["x"], tensors["edge_index"], ptr, edge_ptr, tensors.get("edge_attr"))

    def describe(self, inputs: Graphs) -> dict[str, Json]:
        return {"width": inputs.x.shape[1], "mean_nodes": len(inputs.x) / max(1, len(inputs))}

    def arguments(self, batch: Graphs) -> dict[str, Any]:
        weights = (batch.edge_weight, batch.edge_mask)
        return {
            "x": batch.x,
            "edge_index": batch.edge_index,
            "batch": batch.batch,
            "edge_weight": weights[0],
            "edge_mask": weights[1],
            "edge_attr": batch.edge_attr,
            "graphs": batch,
            "data": batch,  # as most of PyG's examples call it
        }

    def stages(self, module: nn.Module, batch: Graphs, call: Callable[[Graphs], Tensor]) -> tuple[str, ...]:
        return tuple(n for n, m in module.named_modules() if is_message_passing(m))

    def pool(self, features: Tensor, batch: Graphs) -> Tensor:
        if len(features) == len(batch) and len(features) != len(batch.x):
            return features.flatten(1)
        return bag_sum(features.flatten(1), batch.membership) / batch.n_nodes.clamp(min=1)[:, None]

    def difference(self, before: Graphs, after: Graphs) -> dict[str, Tensor]:
        """Counts per graph: nodes added, undirected edges added and removed, nodes with other features."""
        keys = [_edge_keys(g, before, after) for g in (before, after)]
        added = torch.isin(keys[1], keys[0], invert=True)
        removed = torch.isin(keys[0], keys[1], invert=True)
        n = len(before)
        kept = torch.minimum(before.n_nodes, after.n_nodes)
        rows = [_first_nodes(g, kept) for g in (before, after)]
        moved = (before.x[rows[0]] != after.x[rows[1]]).any(1)
        features = torch.bincount(before.batch[rows[0]][moved], minlength=n)
        found = {
            "nodes_added": after.n_nodes - before.n_nodes,
            "edges_added": torch.bincount(after.edge_batch[added], minlength=n) / 2,
            "edges_removed": torch.bincount(before.edge_batch[removed], minlength=n) / 2,
            "nodes_with_other_features": features,
        }
        found["changed"] = torch.stack([v != 0 for v in found.values()]).any(0)
        return {k: v.double() for k, v in found.items()}

    def vary(self, inputs: Graphs, rng: torch.Generator) -> Graphs:
        """Up to 30 % of a graph's edges dropped and up to 30 % of its nodes given another node's features; the two
        shares are drawn anew for every graph. Nothing is added, so no trigger can arise. Features that are degrees are
        counted anew instead: the old ones would still show the edges that are gone."""
        where, n = inputs.x.device, len(inputs.x)
        drop, swap = 0.3 * torch.rand(2, len(inputs), generator=rng).to(where)
        draw = torch.rand(inputs.edge_index.shape[1], generator=rng).to(where)[inputs.pairs]  # one per undirected edge
        keep = draw > drop[inputs.edge_batch]
        other = torch.randint(0, max(1, n), (n,), generator=rng).to(where)
        moved = torch.rand(n, generator=rng).to(where) < swap[inputs.batch]
        if are_degrees(inputs):
            return with_degrees(inputs.with_edges(keep))
        x = torch.where(moved[:, None], inputs.x[other], inputs.x)
        return inputs.with_edges(keep).with_(x=x)

    def distort(self, inputs: Graphs, rng: torch.Generator) -> Graphs:
        """Every undirected edge dropped with probability one half, features swapped among the nodes of a graph for half
        of them: counts of nodes and of their kinds stay. Features that are degrees are counted anew instead: the old ones
        would still show the edges that are gone."""
        where, pairs = inputs.x.device, int(inputs.pairs.max()) + 1 if len(inputs.pairs) else 0
        keep = torch.rand(pairs, generator=rng).to(where)[inputs.pairs] < 0.5
        if are_degrees(inputs):
            return with_degrees(inputs.with_edges(keep))
        moved = torch.rand(len(inputs.x), generator=rng) < 0.5
        at = moved.nonzero().flatten().to(where)
        near = exact(where)
        order = (inputs.batch[at].to(near) + torch.rand(len(at), generator=rng).double().to(near)).argsort()  # in each graph
        x = inputs.x.clone()
        x[at] = inputs.x[at[order.to(where)]]
        return inputs.with_edges(keep).with_(x=x)

    def superpose(self, inputs: Graphs, others: Graphs, mean: bool = False) -> Graphs:
        """Both side by side as the two parts of one graph."""
        if mean:
            raise self._lacks("superposed by halves")
        n = len(inputs)
        both = join([inputs, others]).take(torch.arange(2 * n, device=inputs.x.device).view(2, n).t().flatten())
        held = (both.edge_attr, both.edge_weight, both.edge_mask)
        return Graphs(both.x, both.edge_index, both.node_ptr[::2], both.edge_ptr[::2], *held)

    def unperturbed(self, inputs: Graphs, *, shared: bool = False) -> Tensor:
        """Node features: [N, d], or [1, d] for the same change of every node."""
        return torch.zeros_like(inputs.x[:1] if shared else inputs.x)

    def perturb(self, inputs: Graphs, by: Tensor) -> Graphs:
        low, high = inputs.x.detach().aminmax()
        return inputs.with_(x=(inputs.x + by).clamp(low, high))

    def sketch(self, before: Graphs, after: Graphs) -> list[Json]:
        """Per graph: node kinds (most active feature column), edges, and which nodes and edges the trigger touched."""
        return [_sketch(before, after, i) for i in range(len(before))]


def _columns(g: Graphs) -> tuple[Tensor | None, ...]:
    return (g.x, g.edge_index, g.node_ptr, g.edge_ptr, g.edge_attr, g.edge_weight, g.edge_mask)


def _edge_keys(g: Graphs, *both: Graphs) -> Tensor:
    """A number per edge that is equal in both stores for the same edge of the same graph."""
    most = max(int(b.n_nodes.max()) for b in both)
    local = g.edge_index - g.node_ptr[g.edge_batch]
    return (g.edge_batch * most + local[0]) * most + local[1]


def _first_nodes(g: Graphs, counts: Tensor) -> Tensor:
    return ranges(g.node_ptr[:-1], counts)


def _sketch(before: Graphs, after: Graphs, i: int) -> Json:
    at = torch.tensor([i])
    old, new = before.take(at), after.take(at)
    pairs = [{(a, b) for a, b in g.edge_index.t().tolist() if a < b} for g in (old, new)]
    kept = min(len(old.x), len(new.x))
    touched = {n for edge in pairs[0] ^ pairs[1] for n in edge} | set(range(kept, len(new.x)))
    touched |= set((old.x[:kept] != new.x[:kept]).any(1).nonzero().flatten().tolist())
    return {
        "kind": "graph",
        "nodes": new.x.argmax(1).tolist(),
        "old_nodes": old.x.argmax(1).tolist(),
        "edges": sorted(pairs[1]),
        "added": sorted(pairs[1] - pairs[0]),
        "removed": sorted(pairs[0] - pairs[1]),
        "touched": sorted(touched),
    }


def is_message_passing(module: nn.Module) -> bool:
    """Ours or PyG's; PyG is never imported for the question."""
    names = {f"{c.__module__}.{c.__name__}" for c in type(module).__mro__}
    return bool(names & {"ostiary.models.graph_layers.Conv", "torch_geometric.nn.conv.message_passing.MessagePassing"})
