"""Trigger inversion on graphs: for a class, the subgraph generator that leads clean graphs there.

Shared by purifiers that unlearn what is found and by scans that compare what it takes per class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.console import progress
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import scoped
from ostiary.triggers.generated import feature_kind
from ostiary.triggers.mount import mount
from ostiary.triggers.subgraph import with_degrees


class NodeGenerator(nn.Module):
    """X_t = W_f MLP(x_i), A_t = W_a MLP(x_i) for each replaced node i (GCleaner, Eq. 6)."""

    def __init__(self, width: int, size: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.features, self.edges = nn.Linear(hidden, width), nn.Linear(hidden, size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From the replaced nodes' features [G, n, d]: raw features [G, n, d] and raw adjacency [G, n, n]."""
        z = self.mlp(x)
        rows = self.edges(z)
        return self.features(z), (rows + rows.transpose(1, 2)) / 2


@dataclass(frozen=True, eq=False)
class Recovered:
    """A recovered trigger of one class. rate: share of clean graphs of other classes it sends there. similarity: mean
    cosine of the embeddings of graphs that carry it. edges: mean undirected edges it mounts."""

    goal: int
    rate: float
    similarity: float
    edges: float
    net: NodeGenerator
    low: Tensor
    high: Tensor
    kind: str

    def stamp(self, graphs: Graphs, chosen: Tensor, *, soft: bool = False) -> Graphs:
        """The graphs with the trigger on `chosen` (int64 [G, n], -1 for none); with gradients if `soft`."""
        raw, edges = self.net(graphs.x[chosen.clamp(min=0)])
        p = torch.sigmoid(edges) * ~torch.eye(edges.shape[1], dtype=torch.bool, device=edges.device)
        adjacency = (p > 0.5).to(p.dtype) + p - p.detach()
        if self.kind == "one-hot":
            smooth = raw.softmax(-1)
            features = F.one_hot(raw.argmax(-1), raw.shape[-1]).to(smooth.dtype) + smooth - smooth.detach()
        else:
            features = self.low + (self.high - self.low) * torch.sigmoid(raw)
        rows = None if self.kind == "degree" else features if soft else features.detach()
        marked = mount(graphs, chosen, adjacency if soft else adjacency.detach().round(), rows, soft=soft)
        return with_degrees(marked) if self.kind == "degree" else marked


def recover(
    victim: Victim,
    clean: Dataset,
    chosen: Tensor,
    goal: int,
    ctx: Context,
    *,
    steps: int = 100,
    lr: float = 0.01,
    hidden: int = 64,
    threshold: float = 0.95,
    class_weight: float = 1.0,
    similarity_weight: float = 1.0,
) -> Recovered:
    """Optimise a generator over all clean graphs of other classes as one batch.

    chosen: int64 [len(clean), n], where each graph is changed. Loss: class_weight * CE(goal) + similarity_weight *
    mean hinge max(0, threshold - cos) over pairs of embeddings.
    """
    rows = (clean.y != goal).nonzero().flatten() if class_weight else torch.arange(len(clean))
    graphs, at = _sub(clean.inputs, chosen, rows)
    x = clean.inputs.x
    with scoped(ctx.key(f"recover {goal}"), "init"):
        net = NodeGenerator(x.shape[1], chosen.shape[1], hidden)
    found = Recovered(goal, 0.0, 0.0, 0.0, net, x.amin(0), x.amax(0), feature_kind(clean.inputs))
    goals = torch.full((len(rows),), goal)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    with evaluating(victim), without_gradients(victim):
        for step in range(steps):
            logits, embedding = victim.both(found.stamp(graphs, at, soft=True))
            loss = class_weight * F.cross_entropy(logits, goals) + similarity_weight * hinge(embedding, threshold)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress(f"recovering a trigger of class {goal}", (step + 1) / steps)
        return measured(found, victim, graphs, at)


def measured(found: Recovered, victim: Victim, graphs: Graphs, chosen: Tensor) -> Recovered:
    """With the figures of the hard trigger on these graphs."""
    with torch.no_grad():
        stamped = found.stamp(graphs, chosen)
        logits, embedding = victim.both(stamped)
        unit = F.normalize(embedding, dim=1)
        n = len(unit)
        similarity = float(((unit @ unit.t()).sum() - n) / max(1, n * (n - 1)))
        edges = float(mount_edges(stamped, chosen)) / max(1, n)
        rate = float((logits.argmax(1) == found.goal).double().mean())
    return Recovered(found.goal, rate, similarity, edges, found.net, found.low, found.high, found.kind)


def mount_edges(graphs: Graphs, chosen: Tensor) -> int:
    """Undirected edges among chosen nodes, over all graphs."""
    inside = torch.zeros(len(graphs.x), dtype=torch.bool)
    inside[chosen[chosen >= 0]] = True
    return int((inside[graphs.edge_index[0]] & inside[graphs.edge_index[1]]).sum()) // 2


def hinge(embedding: Tensor, threshold: float) -> Tensor:
    """Mean over pairs p != q of max(0, threshold - cos(g_p, g_q))."""
    unit = F.normalize(embedding, dim=1)
    n = len(unit)
    off = ~torch.eye(n, dtype=torch.bool, device=unit.device)
    return F.relu(threshold - unit @ unit.t())[off].mean() if n > 1 else embedding.sum() * 0


def _sub(graphs: Graphs, chosen: Tensor, rows: Tensor) -> tuple[Graphs, Tensor]:
    """Some graphs of a store, and their chosen nodes in the new numbering."""
    part = graphs.take(rows)
    shift = part.node_ptr[:-1] - graphs.node_ptr[rows]
    return part, torch.where(chosen[rows] >= 0, chosen[rows] + shift[:, None], -1)


Positions = Callable[[Victim, Dataset, Context], Tensor]
