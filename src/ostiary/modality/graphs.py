"""Many graphs in one pre-collated block-diagonal store. A batch is a store; slicing is two index gathers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as dataclass_replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ostiary.errors import InvalidInput
from ostiary.modality.sparse import Incidence, pointer

if TYPE_CHECKING:
    from torch_geometric.data import Data


DEGREES = 64  # columns of a one-hot degree: the same for every sample of a set, with room for what a trigger adds


@dataclass(frozen=True, eq=False)
class Graphs:
    """G graphs, N nodes, E directed edges (an undirected edge is stored in both directions).

    x: float [N, d]. edge_index: int64 [2, E], (source, target), node numbers running through the whole store,
    sorted by target then source. node_ptr, edge_ptr: int64 [G + 1]. edge_attr: float [E, a] or None.
    edge_weight: float [E] in [0, 1] or None (all 1): how much an edge *exists*; triggers differentiate through it.
    edge_mask: float [E] or None: how much of its message passes; explainers learn it.
    Build one with `Graphs.build` or `Graphs.from_pyg`, which sort.
    """

    x: Tensor
    edge_index: Tensor
    node_ptr: Tensor
    edge_ptr: Tensor
    edge_attr: Tensor | None = None
    edge_weight: Tensor | None = None
    edge_mask: Tensor | None = None

    @staticmethod
    def build(
        x: Tensor,
        edge_index: Tensor,
        n_nodes: Tensor,
        *,
        edge_attr: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> Graphs:
        """From node features, global edges in any order, and the number of nodes of each graph (int64 [G])."""
        key = edge_index[1] * max(1, len(x)) + edge_index[0]
        if len(key) > 1 and bool((key[1:] < key[:-1]).any()):
            order = key.argsort(stable=True)
            edge_index = edge_index[:, order]
            edge_attr = None if edge_attr is None else edge_attr[order]
            edge_weight = None if edge_weight is None else edge_weight[order]
        edge_index, node_ptr = edge_index.contiguous(), pointer(n_nodes)  # some kernels take nothing else
        edge_ptr = torch.searchsorted(edge_index[1], node_ptr)
        return Graphs(x, edge_index, node_ptr, edge_ptr, edge_attr, edge_weight)

    @staticmethod
    def from_pyg(data: Sequence[Data], width: int = DEGREES) -> Graphs:
        """From PyG graphs. Graphs without `x` get a one-hot of their degree (`width` columns, clamped above)."""
        items = [_parts(i, d) for i, d in enumerate(data)]
        counts = torch.tensor([n for _, _, _, n in items], dtype=torch.int64)
        start = pointer(counts)
        edges = [e + start[i] for i, (_, e, _, _) in enumerate(items)]
        edge_index = torch.cat(edges, 1) if edges else torch.zeros(2, 0, dtype=torch.int64)
        attrs = [a for _, _, a, _ in items if a is not None]
        features = [x for x, _, _, _ in items if x is not None]
        for what, rows in (("node features", features), ("edge_attr", attrs)):
            if rows and len(rows) < len(items):
                raise InvalidInput(f"only {len(rows)} of {len(items)} graphs have {what}; give them to all or to none")
            if len({r.shape[1] for r in rows}) > 1:
                raise InvalidInput(f"the graphs have {what} of different widths; give all of them one width")
        edge_attr = torch.cat(attrs) if attrs else None
        x = torch.cat(features) if features else degree_features(edge_index, int(counts.sum()), width)
        return Graphs.build(x, edge_index, counts, edge_attr=edge_attr)

    def to_pyg(self) -> list[Data]:
        """One PyG `Data` per graph (copies)."""
        from torch_geometric.data import Data

        found = []
        for i in range(len(self)):
            a, b, e, f = *self.node_ptr[i : i + 2].tolist(), *self.edge_ptr[i : i + 2].tolist()
            attr = None if self.edge_attr is None else self.edge_attr[e:f].clone()
            found.append(Data(x=self.x[a:b].clone(), edge_index=self.edge_index[:, e:f] - a, edge_attr=attr))
        return found

    def __len__(self) -> int:
        return len(self.node_ptr) - 1

    @property
    def num_graphs(self) -> int:
        return len(self)

    @cached_property
    def n_nodes(self) -> Tensor:
        return self.node_ptr.diff()

    @cached_property
    def n_edges(self) -> Tensor:
        return self.edge_ptr.diff()

    @cached_property
    def batch(self) -> Tensor:
        """The graph of each node: int64 [N]."""
        return torch.arange(len(self), device=self.x.device).repeat_interleave(self.n_nodes, output_size=len(self.x))

    @cached_property
    def edge_batch(self) -> Tensor:
        """The graph of each edge: int64 [E]."""
        graphs = torch.arange(len(self), device=self.x.device)
        return graphs.repeat_interleave(self.n_edges, output_size=self.edge_index.shape[1])

    @cached_property
    def in_degree(self) -> Tensor:
        return torch.bincount(self.edge_index[1], minlength=len(self.x))

    @cached_property
    def by_source(self) -> Tensor:
        """The edges in order of (source, target): int64 [E]; what a transposed sum needs."""
        return self.edge_index[0].argsort(stable=True)  # they are in order of target already

    @cached_property
    def pairs(self) -> Tensor:
        """A number per undirected edge, the same for both of its directions: int64 [E], from 0 on."""
        low, high = torch.minimum(*self.edge_index), torch.maximum(*self.edge_index)
        numbers: Tensor = (low * max(1, len(self.x)) + high).unique(return_inverse=True)[1]
        return numbers

    @cached_property
    def adjacency(self) -> Incidence:
        """Bag i holds the sources of the edges into node i."""
        source, target = self.edge_index
        offsets = pointer(self.in_degree)
        if self.symmetric:
            return Incidence(target, source, offsets, offsets, self.by_source, symmetric=True)
        out_degree = torch.bincount(source, minlength=len(self.x))
        return Incidence(target, source, offsets, pointer(out_degree), self.by_source)

    @cached_property
    def symmetric(self) -> bool:
        """Whether every edge has its reverse, so that sums and their transposes are the same."""
        return bool((self.edge_index.flip(0)[:, self.by_source] == self.edge_index).all())

    @cached_property
    def membership(self) -> Incidence:
        """Bag g holds the nodes of graph g."""
        nodes = torch.arange(len(self.x) + 1, device=self.x.device)
        return Incidence(self.batch, nodes[:-1], self.node_ptr, nodes, nodes[:-1])

    @cached_property
    def spans(self) -> Tensor:
        """Of each graph: nodes, edges, first node, first edge: int64 [4, G]."""
        return torch.stack([self.n_nodes, self.n_edges, self.node_ptr[:-1], self.edge_ptr[:-1]])

    def take(self, index: Tensor) -> Graphs:
        spans = self.spans[:, index]  # few calls here, since in a small batch each costs more than its work
        counts = spans[:2]
        ptr = torch.nn.functional.pad(counts.cumsum(1), (1, 0))
        moved, edge_moved = spans[2:] - ptr[:, :-1]
        graphs = torch.arange(counts.shape[1], device=counts.device)
        batch, edge_batch = graphs.repeat_interleave(counts[0]), graphs.repeat_interleave(counts[1])
        nodes = torch.arange(len(batch), device=counts.device) + moved.index_select(0, batch)
        edges = torch.arange(len(edge_batch), device=counts.device) + edge_moved.index_select(0, edge_batch)
        part = Graphs(
            self.x.index_select(0, nodes),  # several times faster than x[nodes]
            self.edge_index.index_select(1, edges) - moved.index_select(0, edge_batch),
            *ptr,
            *(None if v is None else v.index_select(0, edges) for v in (self.edge_attr, self.edge_weight, self.edge_mask)),
        )
        part.__dict__.update(n_nodes=counts[0], n_edges=counts[1], batch=batch, edge_batch=edge_batch)
        part.__dict__["by_source"] = self.by_source[edges] - edge_moved.index_select(0, edge_batch)  # sorting once will do
        if self.symmetric:
            part.__dict__["symmetric"] = True
        return part

    def with_(self, **changes: Any) -> Graphs:
        """A copy with other x, edge_weight or edge_mask; the edges stay, so what was derived from them does too."""
        other = dataclass_replace(self, **changes)
        kept = "n_nodes n_edges spans batch edge_batch in_degree by_source symmetric pairs adjacency membership"
        for name in kept.split():
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    def with_edges(self, keep: Tensor) -> Graphs:
        """The same nodes with the edges that `keep` (bool [E]) marks, in the same order."""
        rank = pointer(keep.long())
        held = (None if v is None else v[keep] for v in (self.edge_attr, self.edge_weight, self.edge_mask))
        part = Graphs(self.x, self.edge_index[:, keep], self.node_ptr, rank[self.edge_ptr], *held)
        part.__dict__.update(
            {name: self.__dict__[name] for name in ("n_nodes", "batch", "membership") if name in self.__dict__}
        )
        part.__dict__["by_source"] = rank[self.by_source[keep[self.by_source]]]
        return part

    def with_added(self, new: Tensor) -> Graphs:
        """The same nodes with more edges, int64 [2, e]; these have an edge_attr of zeros, and weight and mask 1."""
        edges = torch.cat([self.edge_index, new], 1)
        order = (edges[1] * max(1, len(self.x)) + edges[0]).argsort(stable=True)
        attr, weight, mask = self.edge_attr, self.edge_weight, self.edge_mask
        fill = ((attr, 0.0), (weight, 1.0), (mask, 1.0))
        held = (None if v is None else torch.cat([v, v.new_full((new.shape[1], *v.shape[1:]), f)])[order] for v, f in fill)
        edges = edges[:, order].contiguous()
        return Graphs(self.x, edges, self.node_ptr, torch.searchsorted(edges[1], self.node_ptr), *held)


def join(parts: Sequence[Graphs]) -> Graphs:
    """One store after the other."""
    n_nodes = torch.cat([p.n_nodes for p in parts])
    start = pointer(torch.tensor([len(p.x) for p in parts]))
    edge_index = torch.cat([p.edge_index + start[i] for i, p in enumerate(parts)], 1)
    edge_ptr = pointer(torch.cat([p.n_edges for p in parts]))

    def column(name: str, fill: float | None) -> Tensor | None:
        values = [getattr(p, name) for p in parts]
        if all(v is None for v in values) or (fill is None and any(v is None for v in values)):
            return None
        return torch.cat(
            [
                p.x.new_full((p.edge_index.shape[1],), fill or 0.0) if v is None else v
                for p, v in zip(parts, values, strict=True)
            ]
        )

    return Graphs(
        torch.cat([p.x for p in parts]),
        edge_index,
        pointer(n_nodes),
        edge_ptr,
        column("edge_attr", None),
        column("edge_weight", 1.0),
        column("edge_mask", 1.0),
    )


def unit(values: Tensor, graphs: Graphs) -> Tensor:
    """Node values, float [N] or [N, d], each column brought to unit L2 norm within each graph (zeros stay)."""
    squares = values.new_zeros(len(graphs), *values.shape[1:]).index_add(0, graphs.batch, values.square())
    return values / (squares + 1e-12).sqrt()[graphs.batch]


def degree_features(edge_index: Tensor, n_nodes: int, width: int = DEGREES) -> Tensor:
    """One-hot of the in-degree, clamped to `width` columns: float [n_nodes, width]."""
    return _one_hot(torch.bincount(edge_index[1], minlength=n_nodes), width).float()


def with_degrees(graphs: Graphs) -> Graphs:
    """The same graphs with the one-hot degree (clamped to the feature width) as features."""
    return graphs.with_(x=_one_hot(graphs.in_degree, graphs.x.shape[1]).to(graphs.x.dtype))


def _one_hot(degree: Tensor, width: int) -> Tensor:
    """Of degrees, clamped to `width` columns: int64 [N, width]."""
    return torch.nn.functional.one_hot(degree.clamp(max=width - 1), width)


def counts_degrees(graphs: Graphs) -> Tensor:
    """Which graphs have the one-hot degree for features of all their nodes: bool [G]."""
    other = (graphs.x != with_degrees(graphs).x).any(1)
    return torch.bincount(graphs.batch[other], minlength=len(graphs)) == 0


def are_degrees(graphs: Graphs) -> bool:
    """Whether node features are a one-hot of the degree: of most graphs, so that a few from elsewhere do not decide."""
    return 2 * int(counts_degrees(graphs).sum()) > len(graphs)


def _parts(i: int, data: Data) -> tuple[Tensor | None, Tensor, Tensor | None, int]:
    """(x, edge_index, edge_attr, node count) of one PyG graph, checked."""
    _check_types(i, data)
    some = data.edge_index is not None and data.edge_index.numel()
    edges = data.edge_index if some else torch.zeros(2, 0, dtype=torch.int64)
    x = data.x
    if x is None and "num_nodes" not in data:
        raise InvalidInput(f"graph {i} has neither x nor num_nodes, so isolated last nodes cannot be counted; set num_nodes")
    n = int(data.num_nodes or 0) if x is None else len(x)
    if edges.numel() and (int(edges.max()) >= n or int(edges.min()) < 0):
        worst = int(edges.min()) if int(edges.min()) < 0 else int(edges.max())
        raise InvalidInput(f"graph {i} has an edge to node {worst} but only {n} nodes; correct edge_index or x")
    attr = data.edge_attr
    if attr is not None and len(attr) != edges.shape[1]:
        raise InvalidInput(f"graph {i} has {edges.shape[1]} edges but edge_attr for {len(attr)}; give one row per edge")
    if attr is not None and not bool(torch.isfinite(attr).all()):
        raise InvalidInput(f"graph {i}: edge_attr holds NaN or infinity; repair or drop it")
    return None if x is None else _rows(x), edges.long(), None if attr is None else _rows(attr), n


def _check_types(i: int, data: Data) -> None:
    for name in ("x", "edge_index", "edge_attr"):
        value = getattr(data, name)
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise InvalidInput(
                f"graph {i}: {name} is {type(value).__name__}, expected a tensor; convert it with torch.as_tensor"
            )
        if value.is_complex():
            raise InvalidInput(f"graph {i}: {name} is {value.dtype}, expected real numbers; convert it with torch.view_as_real")
    edges = data.edge_index if data.edge_index is not None else torch.zeros(0)
    if edges.numel() and (edges.ndim != 2 or len(edges) != 2):
        remedy = "transpose" if edges.shape[1:] == (2,) else "reshape"
        raise InvalidInput(f"graph {i}: edge_index is {tuple(edges.shape)}, expected [2, edges]; {remedy} it")
    if edges.numel() and (edges.is_floating_point() or edges.dtype == torch.bool):
        raise InvalidInput(f"graph {i}: edge_index is {edges.dtype}, expected node numbers; convert it to int64")
    if "edge_weight" in data:  # kept for triggers: `pack` leaves it out
        raise InvalidInput(f"graph {i} has edge_weight, which is not kept; give it as edge_attr or delete it")


def _rows(values: Tensor) -> Tensor:
    """Floats, one row per node or edge, also where there are none."""
    return values.float()[:, None] if values.ndim == 1 else values.float().flatten(1)
