"""Monte-Carlo tree search over the connected subgraphs of one graph. A set of nodes is the bits of an int."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field


def bits(nodes: int) -> Iterator[int]:
    while nodes:
        low = nodes & -nodes
        yield low.bit_length() - 1
        nodes ^= low


@dataclass
class Search:
    """near: the neighbours of each node. before: of each Shapley sample, the nodes that come before the subgraph.

    least, expand, hops, explore: as in SubgraphX. shown: what the model says when only these nodes are shown; whoever
    runs the search fills it in. shapley: the score of every explored subgraph.
    """

    near: list[int]
    before: list[int]
    least: int
    expand: int
    hops: int
    explore: float
    shown: dict[int, float] = field(default_factory=dict)
    shapley: dict[int, float] = field(default_factory=dict)
    children: dict[int, list[int]] = field(default_factory=dict)
    visits: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    gains: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))

    def run(self, rollouts: int) -> Iterator[list[int]]:
        """Yields node sets that must be in `shown` when it goes on."""
        whole = (1 << len(self.near)) - 1
        yield from self.judge([whole])
        for _ in range(rollouts):
            path = [whole]
            while path[-1].bit_count() > self.least:
                if path[-1] not in self.children:
                    self.children[path[-1]] = self.pruned(path[-1])
                    yield from self.judge(self.children[path[-1]])
                path.append(self.choice(self.children[path[-1]]))
            for nodes in path:
                self.visits[nodes] += 1
                self.gains[nodes] += self.shapley[path[-1]]

    def judge(self, subgraphs: list[int]) -> Iterator[list[int]]:
        """Their Shapley scores, from pairs of node sets with and without the subgraph."""
        pairs = {s: self.coalitions(s) for s in subgraphs if s not in self.shapley}
        wanted = {nodes: None for both in pairs.values() for pair in both for nodes in pair if nodes not in self.shown}
        if wanted:
            yield list(wanted)
        for s, both in pairs.items():
            self.shapley[s] = sum(self.shown[a] - self.shown[b] for a, b in both) / len(both)

    def coalitions(self, subgraph: int) -> list[tuple[int, int]]:
        region = subgraph
        for _ in range(self.hops):
            region |= self.reach(region)
        far = (1 << len(self.near)) - 1 & ~region
        without = [before & region & ~subgraph | far for before in self.before]
        return [(nodes | subgraph, nodes) for nodes in without]

    def pruned(self, nodes: int) -> list[int]:
        """The parts of a set that is not connected; else what stays connected when one node goes, fewest neighbours first."""
        parts = self.parts(nodes)
        if len(parts) > 1:
            return parts
        gone = sorted(bits(nodes), key=lambda v: (self.near[v] & nodes).bit_count())[: self.expand]
        parts = [part for v in gone for part in self.parts(nodes & ~(1 << v))]
        return list(dict.fromkeys(p for p in parts if p.bit_count() >= self.least)) or [max(parts, key=int.bit_count)]

    def parts(self, nodes: int) -> list[int]:
        found = []
        while nodes:
            part, new = 0, nodes & -nodes
            while new:
                part |= new
                new = self.reach(new) & nodes & ~part
            found.append(part)
            nodes &= ~part
        return found

    def reach(self, nodes: int) -> int:
        found = 0
        for v in bits(nodes):
            found |= self.near[v]
        return found

    def choice(self, children: list[int]) -> int:
        """The largest mean gain + bonus (PUCT); the first choice of all goes by the score."""
        n, bonus = self.visits, self.explore * math.sqrt(max(1, sum(self.visits[c] for c in children)))
        return max(children, key=lambda c: self.gains[c] / max(1, n[c]) + bonus * self.shapley[c] / (1 + n[c]))
