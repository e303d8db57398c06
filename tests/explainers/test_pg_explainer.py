"""PGExplainer against PyG's, with the same first weights and the same noise."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.explain import Explainer
from torch_geometric.explain.algorithm import PGExplainer as PyGPGExplainer

from ostiary.context import Context
from ostiary.errors import Unsupported
from ostiary.explainers.pg_explainer import PGExplainer
from ostiary.modality.graphs import Graphs, join
from ostiary.models.victim import Victim
from ostiary.testing import toys


class Net(nn.Module):
    """A user's module: normalisation by degree and self-loops in its layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = pyg.GCNConv(width, 8), pyg.SAGEConv(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.second(self.first(x, edge_index).relu(), edge_index).relu()
        return self.head(pyg.global_add_pool(x, batch))


class GivenNoise(PyGPGExplainer):
    """PyG's explainer with given first weights and noise."""

    noise: list[Tensor]

    def start(self, mlp: nn.Module) -> None:
        self.mlp = copy.deepcopy(mlp)
        self.optimizer = torch.optim.Adam(self.mlp.parameters(), lr=self.lr)

    def _concrete_sample(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        given = self.noise.pop(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand_like", lambda _: given)
            return super()._concrete_sample(logits, temperature)


class Watched(PGExplainer):
    """Ours, noting what each step of training was given and what loss it had."""

    def loss(self, victim: Victim, graphs: Graphs, classes: Tensor, logits: Tensor, noise: Tensor, epoch: int) -> Tensor:
        loss = super().loss(victim, graphs, classes, logits, noise, epoch)
        STEPS.append((graphs, classes, noise, epoch, float(loss.detach())))
        return loss

    def train(self, victim: Victim, mlp: nn.Module, *rest: Any) -> None:
        START.append(copy.deepcopy(mlp))
        super().train(victim, mlp, *rest)


STEPS: list[tuple[Graphs, Tensor, Tensor, int, float]] = []
START: list[nn.Module] = []


def module(graphs: Graphs) -> Net:
    torch.random.default_generator.manual_seed(0)
    return Net(graphs.x.shape[1]).double().eval()


@pytest.mark.filterwarnings("ignore:Converting a tensor")  # in PyG's own return
def test_equals_pyg_step_by_step_and_in_the_end(graphs: Graphs) -> None:
    net, ours = module(graphs), {"lr": 0.01, "edge_size": 0.03, "edge_ent": 0.7, "bias": 0.02}
    STEPS.clear(), START.clear()
    classes = torch.tensor([0, 1, 1, 0])
    options = {**ours, "temperature": (4.0, 1.5)}
    found = Watched(epochs=3, batch_size=1, **options).explain(Victim(net, "graph"), graphs, Context(), classes)
    algorithm = GivenNoise(epochs=3, **ours, temp=[4.0, 1.5])
    explainer = Explainer(
        net,
        algorithm,
        explanation_type="phenomenon",
        edge_mask_type="object",
        model_config={"mode": "multiclass_classification", "task_level": "graph", "return_type": "raw"},
    )
    algorithm.start(START[0])
    algorithm.noise = [noise for _, _, noise, _, _ in STEPS]
    assert len(STEPS) == 12
    for batch, target, _, epoch, loss in list(STEPS):
        theirs = algorithm.train(epoch, net, batch.x, batch.edge_index, target=target, batch=batch.batch)
        assert loss == pytest.approx(theirs, rel=1e-9)
    edges = []
    for i, graph in enumerate(graphs.to_pyg()):
        batch = torch.zeros(len(graph.x), dtype=torch.int64)
        edges.append(explainer(graph.x, graph.edge_index, target=classes[i : i + 1], batch=batch).edge_mask)
    torch.testing.assert_close(found.edges.sigmoid(), torch.cat(edges), atol=1e-9, rtol=0)
    assert found.edges.std() > 1e-4


def test_the_loss_of_a_batch_is_the_mean_of_its_graphs(graphs: Graphs) -> None:
    victim, explainer = Victim(module(graphs), "graph"), PGExplainer(edge_ent=0.5)
    draws = torch.rand(2, graphs.edge_index.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([0, 1, 0, 1])
    whole = explainer.loss(victim, graphs, classes, draws[0] - 0.5, draws[1], 4)
    single = []
    for i in range(len(graphs)):
        edges = graphs.edge_batch == i
        one = graphs.take(torch.tensor([i]))
        single.append(explainer.loss(victim, one, classes[i : i + 1], draws[0, edges] - 0.5, draws[1, edges], 4))
    torch.testing.assert_close(whole, torch.stack(single).mean())


def test_the_loss_by_hand() -> None:
    """One edge pair, a victim whose logits are (sum of the mask, 0), epoch 0."""
    pair = Graphs.build(torch.ones(2, 1), torch.tensor([[0, 1], [1, 0]]), torch.tensor([2]))
    victim = Victim(nn.Linear(1, 1), "graph", forward=lambda _m, b: torch.stack([b.edge_mask.sum(), b.x.new_zeros(())])[None])
    explainer = PGExplainer(edge_size=0.1, edge_ent=0.5, temperature=(2.0, 1.0), bias=1e-9)
    found = explainer.loss(victim, pair, torch.tensor([0]), torch.tensor([1.0, -3.0]), torch.full((2,), 0.5), 0)
    mask = [1 / (1 + math.exp(-v / 2)) for v in (1.0, -3.0)]
    inner = [0.99 * m + 0.005 for m in mask]
    entropy = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in inner) / 2
    expected = math.log(1 + math.exp(-sum(mask))) + 0.1 * sum(mask) + 0.5 * entropy
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_nodes_score_the_mean_of_their_edges(graphs: Graphs) -> None:
    found = PGExplainer(epochs=2).explain(toys.victim("graph").double(), graphs, Context())
    source, target = graphs.edge_index
    for node in range(0, len(graphs.x), 7):
        torch.testing.assert_close(found.nodes[node], found.edges[(source == node) | (target == node)].mean())


def test_scores_still_rank_where_masks_round_to_one(graphs: Graphs) -> None:
    found = PGExplainer(epochs=60, edge_size=0.0).explain(toys.victim("graph"), graphs.with_(x=graphs.x.float()), Context())
    assert (found.edges.sigmoid() == 1).float().mean() > 0.5
    assert len(found.edges.unique()) > 0.3 * len(found.edges)


def test_only_what_an_edge_s_ends_say_counts(graphs: Graphs) -> None:
    """The same graph twice in one call gets the same scores, whatever its id."""
    twice = join([graphs, graphs])
    found = PGExplainer(epochs=3).explain(toys.victim("graph").double(), twice, Context())
    half = len(found.edges) // 2
    torch.testing.assert_close(found.edges[:half], found.edges[half:])


def test_it_needs_rows_per_node_in_the_last_stage(graphs: Graphs) -> None:
    victim = toys.victim("graph").double()
    pooled = Victim(victim.module, "graph", stages=("head",))
    with pytest.raises(Unsupported, match="one row per node"):
        PGExplainer().explain(pooled, graphs, Context())
