"""Nodes of a shared graph as inputs: what a trigger brought can be told apart, and taken away again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ostiary.modality.graphs import Graphs
from ostiary.modality.graphs import join as join_graphs
from ostiary.modality.sparse import ranges


@dataclass(frozen=True, eq=False)
class Nodes:
    """n inputs that are nodes of one store, usually of a single graph which they share.

    graphs: the store, N nodes. roots: int64 [n], the inputs. owner: int64 [N], for every node of the store the root whose
    trigger brought it, -1 for original nodes; within a graph original nodes come first, then triggers by owner.
    changed: int64 [m], sorted, the original nodes whose features a trigger changed; plain: float [m, d], what they were.
    Only roots have triggers: `take` takes those of the other roots away, so that an input comes with its own alone.
    """

    graphs: Graphs
    roots: Tensor
    owner: Tensor
    changed: Tensor
    plain: Tensor

    @staticmethod
    def of(graphs: Graphs, roots: Tensor | None = None) -> Nodes:
        """All nodes of the store, or those at `roots`, without any trigger."""
        n = len(graphs.x)
        roots = torch.arange(n, device=graphs.x.device) if roots is None else roots
        return Nodes(graphs, roots, torch.full((n,), -1, device=graphs.x.device), *_nothing(graphs.x))

    def __len__(self) -> int:
        return len(self.roots)

    @property
    def x(self) -> Tensor:
        return self.graphs.x

    @property
    def edge_index(self) -> Tensor:
        return self.graphs.edge_index

    @property
    def edge_weight(self) -> Tensor | None:
        return self.graphs.edge_weight

    @property
    def edge_mask(self) -> Tensor | None:
        return self.graphs.edge_mask

    @property
    def batch(self) -> Tensor:
        return self.graphs.batch

    def with_(self, **changes: Any) -> Nodes:
        """A copy whose store has other x, edge_weight or edge_mask."""
        return replace(self, graphs=self.graphs.with_(**changes))

    @cached_property
    def pristine(self) -> bool:
        """Whether no trigger has been here."""
        return not len(self.changed) and not bool((self.owner >= 0).any())

    def take(self, index: Tensor) -> Nodes:
        roots = self.roots[index]
        if self.pristine:
            part = replace(self, roots=roots)
            part.__dict__["pristine"] = True
            return part
        here = torch.zeros(len(self.x), dtype=torch.bool, device=roots.device)
        here[roots] = True
        stay = (self.owner < 0) | here[self.owner.clamp(min=0)]
        keep = here[self.changed]
        if bool(stay.all()) and bool(keep.all()):
            return replace(self, roots=roots)
        x = self.x
        if not bool(keep.all()):
            x = x.index_copy(0, self.changed[~keep], self.plain[~keep])
        rest = replace(self, graphs=self.graphs.with_(x=x), roots=roots, changed=self.changed[keep], plain=self.plain[keep])
        return rest if bool(stay.all()) else _among(rest, stay)

    def alter(self, x: Tensor) -> Nodes:
        """With other features on the roots: float [n, d], a row per root."""
        rows, first = firsts(self.roots)
        new = ~torch.isin(rows, self.changed)
        changed = torch.cat([self.changed, rows[new]])
        order = changed.argsort()
        plain = torch.cat([self.plain, self.x[rows[new]]])[order]
        store = self.graphs.with_(x=self.x.index_copy(0, rows, x[first].to(self.x.dtype)))
        return replace(self, graphs=store, changed=changed[order], plain=plain)

    def attach(self, features: Tensor, adjacency: Tensor, *, soft: bool = False) -> Nodes:
        """With t new nodes at every root: features float [n, t, d], adjacency [n, t, t] of ones and zeros.

        The first new node is joined to the root. With `soft` every pair of an input's new nodes gets an edge whose
        `edge_weight` is its entry of `adjacency`, so that gradients reach absent edges too.
        """
        roots, first = firsts(self.roots)
        (n, t, d), start = (len(roots), *features.shape[1:]), len(self.x)
        new = start + torch.arange(n * t, device=roots.device).view(n, t)
        matrix, off = adjacency[first], ~torch.eye(t, dtype=torch.bool, device=roots.device)
        g, i, j = (off.expand(n, t, t) if soft else off & (matrix > 0.5)).nonzero(as_tuple=True)
        stems = torch.stack([roots, new[:, 0]])
        edges = torch.cat([self.edge_index, stems, stems.flip(0), torch.stack([new[g, i], new[g, j]])], 1)
        added = edges.shape[1] - self.edge_index.shape[1]
        weight, attr = self.edge_weight, self.graphs.edge_attr
        if soft or weight is not None:
            old = self.x.new_ones(self.edge_index.shape[1]) if weight is None else weight
            weight = torch.cat([old, old.new_ones(2 * n), matrix[g, i, j].to(old.dtype)])
        attr = None if attr is None else torch.cat([attr, attr.new_zeros(added, attr.shape[1])])
        x = torch.cat([self.x, features.index_select(0, first).reshape(n * t, d).to(self.x.dtype)])
        owner = torch.cat([self.owner, roots.repeat_interleave(t)])
        graph = torch.cat([self.batch, self.batch[roots].repeat_interleave(t)])
        return _assemble(self, x, edges, graph, owner, attr=attr, weight=weight)


def store(inputs: Graphs | Nodes) -> Graphs:
    """The graphs themselves, or those that the nodes lie in."""
    return inputs.graphs if isinstance(inputs, Nodes) else inputs


def names(nodes: Nodes) -> Tensor:
    """A number for every node of the store that stays, whatever other triggers come or go: its place in its graph or, of
    what a trigger brought (at most 64 nodes), numbers from 2^30 on by its root: int64 [N]."""
    graphs = nodes.graphs
    place = torch.arange(len(nodes.x), device=nodes.roots.device)
    roots, first = firsts(nodes.owner)
    rank = place - first[torch.searchsorted(roots, nodes.owner)]
    local = place - graphs.node_ptr[graphs.batch]
    return torch.where(nodes.owner < 0, local, 2**30 + 64 * local[nodes.owner.clamp(min=0)] + rank)


def original(nodes: Nodes) -> Nodes:
    """The same roots as they were before any trigger."""
    bare = nodes.take(torch.arange(0, device=nodes.roots.device))
    rank = (nodes.owner < 0).cumsum(0) - 1
    return replace(bare, roots=rank[nodes.roots])


def join(parts: Sequence[Nodes]) -> Nodes:
    """One after the other. Parts of the same original graph share it again, with the triggers of all; where a root occurs
    in several parts, of which some carry triggers, every part keeps a graph of its own."""
    bare = [original(p) for p in parts]
    apart = all(p.pristine for p in parts) or _disjoint([b.roots for b in bare])
    if apart and all(_same(bare[0].graphs, b.graphs) for b in bare[1:]):
        return _merged(parts, bare)
    start = [0, *torch.tensor([len(p.x) for p in parts]).cumsum(0).tolist()]
    return Nodes(
        join_graphs([p.graphs for p in parts]),
        torch.cat([p.roots + s for p, s in zip(parts, start, strict=False)]),
        torch.cat([torch.where(p.owner < 0, p.owner, p.owner + s) for p, s in zip(parts, start, strict=False)]),
        torch.cat([p.changed + s for p, s in zip(parts, start, strict=False)]),
        torch.cat([p.plain for p in parts]),
    )


def egos(nodes: Nodes, hops: int = 2) -> tuple[Graphs, Tensor, Tensor]:
    """The neighbourhood of every root as a graph of its own, without features (x is [N', 0]), nodes in order of their
    number in the store; then for each of its nodes that number, and its steps from the root: int64 [N'], int64 [N']."""
    graphs, n = nodes.graphs, max(1, len(nodes.x))
    offsets, source = graphs.adjacency.offsets, graphs.edge_index[0]

    def spread(keys: Tensor) -> tuple[Tensor, Tensor]:
        """(place in `keys`, key) of every neighbour of every node."""
        at = keys % n
        counts = graphs.in_degree[at]
        place = torch.arange(len(keys), device=keys.device).repeat_interleave(counts)
        return place, (keys // n)[place] * n + source[ranges(offsets[at], counts)]

    keys = torch.arange(len(nodes), device=nodes.roots.device) * n + nodes.roots
    steps = torch.zeros_like(keys)
    for hop in range(hops):
        far = spread(keys)[1].unique()
        far = far[~torch.isin(far, keys)]
        keys, order = torch.cat([keys, far]).sort()
        steps = torch.cat([steps, torch.full_like(far, hop + 1)])[order]
    place, ends = spread(keys)
    found = torch.searchsorted(keys, ends).clamp(max=len(keys) - 1)
    inside = keys[found] == ends
    counts = torch.bincount(keys // n, minlength=len(nodes))
    edges = torch.stack([found[inside], place[inside]])
    return Graphs.build(nodes.x.new_zeros(len(keys), 0), edges, counts), keys % n, steps


def induced(nodes: Nodes) -> Nodes:
    """The roots (each once) and the edges among them; nothing else."""
    stay = torch.zeros(len(nodes.x), dtype=torch.bool, device=nodes.roots.device)
    stay[nodes.roots] = True
    return _among(nodes, stay)


def _among(nodes: Nodes, stay: Tensor) -> Nodes:
    """The nodes where `stay` (bool [N], true for every root and owner that is left) holds, in their order."""
    graphs, number = nodes.graphs, stay.cumsum(0) - 1
    keep = stay[graphs.edge_index].all(0)
    attr, weight = (None if v is None else v[keep] for v in (graphs.edge_attr, graphs.edge_weight))
    counts = torch.bincount(graphs.batch[stay], minlength=len(graphs))
    edges = number[graphs.edge_index[:, keep]]
    store = Graphs.build(graphs.x[stay], edges, counts, edge_attr=attr, edge_weight=weight)
    owner = nodes.owner[stay]
    owner = torch.where(owner < 0, owner, number[owner.clamp(min=0)])
    return Nodes(store, number[nodes.roots], owner, number[nodes.changed], nodes.plain)


def _assemble(
    nodes: Nodes, x: Tensor, edges: Tensor, graph: Tensor, owner: Tensor, *, attr: Tensor | None, weight: Tensor | None
) -> Nodes:
    """`nodes` with more nodes behind its own, brought into the order that `Nodes` promises."""
    order = owner.argsort(stable=True)
    order = order[graph[order].argsort(stable=True)]
    counts = torch.bincount(graph, minlength=len(nodes.graphs))
    if bool((order[1:] > order[:-1]).all()):  # one graph without triggers: its new nodes come last anyway
        store = Graphs.build(x, edges, counts, edge_attr=attr, edge_weight=weight)
        return replace(nodes, graphs=store, owner=owner)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=order.device)
    owner = torch.where(owner < 0, owner, number[owner.clamp(min=0)])[order]
    store = Graphs.build(x.index_select(0, order), number[edges], counts, edge_attr=attr, edge_weight=weight)
    return Nodes(store, number[nodes.roots], owner, number[nodes.changed], nodes.plain)


def _merged(parts: Sequence[Nodes], bare: Sequence[Nodes]) -> Nodes:
    """The triggers of all parts on one copy of the graph that they have in common (`bare`, part by part)."""
    base = bare[0]
    x, edges, graph, owner = [base.x], [base.edge_index], [base.batch], [base.owner]
    attrs, n = [base.graphs.edge_attr], len(base.x)
    changed, rows = [], []
    for p in parts:
        new = p.owner >= 0
        number = torch.where(new, n + new.cumsum(0) - 1, (~new).cumsum(0) - 1)  # in the merged store
        touching = new[p.edge_index].any(0)
        x.append(p.x[new])
        edges.append(number[p.edge_index[:, touching]])
        graph.append(p.batch[new])
        owner.append(number[p.owner[new]])
        attrs.append(None if p.graphs.edge_attr is None else p.graphs.edge_attr[touching])
        changed.append(number[p.changed])
        rows.append(p.x[p.changed])
        n += int(new.sum())
    at, order = torch.cat(changed).sort()
    whole = replace(base, roots=torch.cat([b.roots for b in bare]), changed=at, plain=base.x[at])
    x[0] = base.x.index_copy(0, at, torch.cat(rows)[order]) if len(at) else base.x
    if n == len(base.x):
        return replace(whole, graphs=base.graphs.with_(x=x[0]))
    attr = None if attrs[0] is None else torch.cat([a for a in attrs if a is not None])
    return _assemble(whole, torch.cat(x), torch.cat(edges, 1), torch.cat(graph), torch.cat(owner), attr=attr, weight=None)


def _same(a: Graphs, b: Graphs) -> bool:
    """Whether two stores hold the same nodes and edges."""
    return a is b or (
        a.x.shape == b.x.shape
        and a.edge_index.shape == b.edge_index.shape
        and torch.equal(a.edge_index, b.edge_index)
        and torch.equal(a.node_ptr, b.node_ptr)
        and (a.x is b.x or torch.equal(a.x, b.x))
    )


def _disjoint(roots: Sequence[Tensor]) -> bool:
    """Whether no number is in two of the tensors."""
    each = torch.cat([r.unique() for r in roots])
    return len(each.unique()) == len(each)


def firsts(values: Tensor) -> tuple[Tensor, Tensor]:
    """The different values (of int64 [n]) in ascending order, and the first place of each."""
    order = values.argsort(stable=True)
    ordered = values[order]
    new = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new], order[new]


def _nothing(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(0, dtype=torch.int64, device=x.device), x.new_zeros(0, x.shape[1])
