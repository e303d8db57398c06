"""Trigger inversion on graphs: for a class, the subgraph generator that leads clean graphs there.

Shared by purifiers that unlearn what is found and by scans that compare what it takes per class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.console import progress, warn_once
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.devices import wide
from ostiary.explainers.base import Explainer
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.models.graph_layers import fold_norms
from ostiary.models.victim import Victim
from ostiary.seeds import scoped
from ostiary.triggers.generator import bias_to_best, feature_kind
from ostiary.triggers.mount import SoftMount, mount, outer, random_score, top_nodes, with_rows

BLIND = (
    "no gradient of the model's answers reaches node features, so that triggers are looked for in edges alone; where the model "
    "looks kinds up in an embedding, give them as a one-hot and multiply it with the embedding's weight"
)


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

    def stamp(self, graphs: Graphs, chosen: Tensor) -> Graphs:
        """The graphs with the trigger on `chosen` (int64 [G, n], -1 for none), without gradients."""
        with torch.no_grad():
            adjacency, features = self.drawn(graphs, chosen)
            marked = mount(graphs, chosen, adjacency.round(), features)
        return with_degrees(marked) if self.kind == "degree" else marked

    def on(self, data: Dataset, places: Tensor) -> Graphs:
        """Graphs of other data with the trigger. places: int64 [n, nodes], within each graph."""
        return self.stamp(data.inputs, placed(data.inputs, places))

    def softly(self, onto: SoftMount, graphs: Graphs) -> Graphs:
        """The same with gradients; `onto` mounts on nodes of `graphs`. Degrees as features count every edge that might be: with
        those of the edges there are, which have no gradient, six toy backdoors were recovered worse."""
        marked = onto(*self.drawn(graphs, onto.chosen))
        return with_degrees(marked) if self.kind == "degree" else marked

    def drawn(self, graphs: Graphs, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """(adjacency [G, n, n], features [G, n, d] or None where degrees make them), with gradients through the rounding."""
        raw, edges = self.net(graphs.x[chosen.clamp(min=0)])
        p = torch.sigmoid(edges) * ~torch.eye(edges.shape[1], dtype=torch.bool, device=edges.device)
        adjacency = (p > 0.5).to(p.dtype) + p - p.detach()
        if self.kind == "degree":
            return adjacency, None
        if self.kind == "range":
            return adjacency, self.low + (self.high - self.low) * torch.sigmoid(raw)
        smooth = raw.softmax(-1)
        return adjacency, F.one_hot(raw.argmax(-1), raw.shape[-1]).to(smooth.dtype) + smooth - smooth.detach()


@dataclass(frozen=True)
class Recovery:
    """How triggers are recovered. Loss: CE(goal) (unless `by_class` is off) + mean over pairs of embeddings of
    max(0, threshold - cos). nodes: nodes replaced in each graph; steps, lr: of Adam. restarts: tries from other weights
    while a class is not reached; a generator can get stuck where a trigger exists. patience: a try ends
    before its `steps` once its trigger has reached every graph and the loss has not fallen by a hundredth in so many of them
    (0: it never does; the trigger is rounded, so that its loss may rest for a while and then fall)."""

    nodes: int
    steps: int = 100
    lr: float = 0.01
    threshold: float = 0.95
    by_class: bool = True
    restarts: int = 3
    hidden: int = 64
    patience: int = 0

    def least(self, victim: Victim, clean: Dataset, explainer: Explainer, ctx: Context) -> Tensor:
        """The least important nodes of each clean graph for its true class, as places within it: int64 [n, nodes]."""
        scores = explainer.explain(victim, clean.inputs, ctx, clean.y).nodes
        assert scores is not None
        return within(clean.inputs, top_nodes(clean.inputs, -wide(scores.to(clean.y.device)), self.nodes))

    def anywhere(self, clean: Dataset, seed: int) -> Tensor:
        """Random nodes of each clean graph, as places within it: int64 [n, nodes]."""
        return within(clean.inputs, top_nodes(clean.inputs, random_score(clean.inputs, clean.ids, seed), self.nodes))

    def chosen(self, victim: Victim, explainer: Explainer | None, ctx: Context, data: Dataset) -> Tensor:
        """The least important nodes, or random ones without an `explainer`, as places within each graph: int64 [n, nodes]."""
        return self.least(victim, data, explainer, ctx) if explainer else self.anywhere(data, ctx.key("positions"))

    def of(self, victim: Victim, clean: Dataset, places: Tensor, goal: int, ctx: Context) -> Recovered:
        """The trigger that leads clean graphs of other classes to `goal` (all graphs, without `by_class`), the best of
        all tries. places: int64 [n, nodes], the nodes replaced. Where every graph is of class `goal`, rate is 0."""
        tries: list[Recovered] = []
        while len(tries) < self.restarts and not any(t.rate >= 0.99 for t in tries):
            own = ctx.within(f"try {len(tries)}")
            tries.append(self.once(victim, clean, places, goal, own, coarse=not tries and self.by_class))
        return max(tries, key=lambda t: (t.rate, t.similarity))

    def once(
        self, victim: Victim, clean: Dataset, places: Tensor, goal: int, ctx: Context, *, coarse: bool = False
    ) -> Recovered:
        """One optimisation over all graphs as one batch; `coarse`: from the best uniform trigger instead of at random."""
        rows = (clean.y != goal).nonzero().flatten() if self.by_class else torch.arange(len(clean))
        graphs, x = clean.inputs.take(rows), clean.inputs.x
        at = placed(graphs, places[rows])
        with scoped(ctx.key(f"recover {goal}"), "init"):
            net = NodeGenerator(x.shape[1], self.nodes, self.hidden).to(x.device)
        found = Recovered(goal, 0.0, 0.0, 0.0, net, x.amin(0), x.amax(0), feature_kind(clean.inputs))
        if len(rows) == 0:
            return found
        goals = torch.full((len(rows),), goal, device=x.device)
        victim = folded(victim)
        if coarse and found.kind == "one-hot":
            start_uniform(found, victim, graphs, at, goals)
        optimizer, onto = torch.optim.Adam(net.parameters(), self.lr, fused=True), SoftMount(graphs, at)
        least, since = math.inf, 0
        for step in range(self.steps):
            logits, embedding = victim.both(found.softly(onto, graphs))
            loss = hinge(embedding, self.threshold)
            if self.by_class:
                loss = loss + F.cross_entropy(logits, goals)
            optimizer.zero_grad()
            loss.backward()
            if step == 0 and found.kind == "range" and all(p.grad is None for p in net.features.parameters()):
                warn_once(BLIND)
            optimizer.step()
            progress(f"recovering a trigger of class {goal}", (step + 1) / self.steps)
            value = float(loss.detach())
            least, since = (value, step) if value < 0.99 * least - 1e-4 else (least, since)
            if self.patience and step - since >= self.patience and bool((logits.argmax(1) == goals).all()):
                break
        return measured(found, victim, graphs, at)


def folded(victim: Victim) -> Victim:
    """A copy that answers as the victim does in evaluation mode, in fewer operations and without gradients of weights."""
    copy = victim.clone().eval().requires_grad_(False)
    fold_norms(copy)
    return copy.requires_grad_(False)


@torch.no_grad()
def start_uniform(found: Recovered, victim: Victim, graphs: Graphs, chosen: Tensor, goals: Tensor) -> None:
    """Bias a fresh generator to the kind of node, and to a clique or no edge, with the least loss as they are."""
    net, tried = found.net, []
    kept, edges = net.features.bias.clone(), net.edges.bias.clone()
    for sign in (-1.0, 1.0):
        net.features.bias.copy_(kept)
        net.edges.bias.fill_(sign)
        marked = found.stamp(graphs, chosen)  # the edges, which no kind of node changes
        _ = marked.adjacency, marked.membership

        def loss_of(marked: Graphs = marked) -> Tensor:
            x = with_rows(graphs.x, chosen, found.drawn(graphs, chosen)[1])
            return F.cross_entropy(victim(marked.with_(x=x)), goals)

        loss = bias_to_best(net.features.bias, loss_of)
        tried.append((loss, sign, net.features.bias.clone()))
    _, sign, best = min(tried, key=lambda t: t[0])
    net.features.bias.copy_(best)
    net.edges.bias.copy_(edges + 0.5 * sign)


def measured(found: Recovered, victim: Victim, graphs: Graphs, chosen: Tensor) -> Recovered:
    """With the figures of the hard trigger on these graphs."""
    with torch.no_grad():
        stamped = found.stamp(graphs, chosen)
        logits, embedding = victim.both(stamped)
        n = len(embedding)
        edges = float(edges_within(stamped, chosen)) / max(1, n)
        rate = float(wide(logits.argmax(1) == found.goal).mean())
    return Recovered(found.goal, rate, likeness(embedding), edges, found.net, found.low, found.high, found.kind)


def edges_within(graphs: Graphs, chosen: Tensor) -> int:
    """Undirected edges among the chosen nodes (int64 [G, t], -1 for none), over all graphs."""
    return int((~outer(graphs, chosen)).sum()) // 2


def likeness(embedding: Tensor) -> float:
    """Mean cosine of pairs of different rows (float [n, d])."""
    n = len(embedding)
    whole = F.normalize(embedding, dim=1).sum(0)  # whose square is the sum over all pairs
    return (float(whole.square().sum()) - n) / max(1, n * (n - 1))


def hinge(embedding: Tensor, threshold: float) -> Tensor:
    """Mean over pairs p != q of max(0, threshold - cos(g_p, g_q))."""
    unit = F.normalize(embedding, dim=1)
    n = len(unit)
    off = ~torch.eye(n, dtype=torch.bool, device=unit.device)
    return F.relu(threshold - unit @ unit.t())[off].mean() if n > 1 else embedding.sum() * 0


def within(graphs: Graphs, chosen: Tensor) -> Tensor:
    """Chosen nodes (int64 [G, n], numbers of the store) as places within their graph; -1 stays -1."""
    return torch.where(chosen >= 0, chosen - graphs.node_ptr[:-1, None], -1)


def placed(graphs: Graphs, local: Tensor) -> Tensor:
    """The inverse of `within`, in a store of the same graphs."""
    return torch.where(local >= 0, local + graphs.node_ptr[:-1, None], -1)
