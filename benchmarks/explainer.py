"""GNNExplainer, 100 epochs with edge and feature masks: all graphs at once against PyG's one graph after the other."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.explain import Explainer
from torch_geometric.explain.algorithm import GNNExplainer as PyGGNNExplainer

from common import cpu_seconds, one_thread, report, tu
from ostiary.component import build
from ostiary.context import Context
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim

MANY, FEW = 200, 20  # graphs explained by us and by PyG, which is too slow for all of them
WIDTH, LAYERS = 64, 3


class PyGNet(nn.Module):
    """The shape of our own networks on PyG's layers."""

    def __init__(self, kind: str, features: int, classes: int) -> None:
        super().__init__()
        layer = {"GIN": gin, "GCN": pyg.GCNConv, "SAGE": pyg.SAGEConv}[kind]
        self.convs = nn.ModuleList(layer(WIDTH if i else features, WIDTH) for i in range(LAYERS))
        self.lin, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return self.head(self.lin(pyg.global_add_pool(x, batch)).relu())


def gin(d_in: int, d_out: int) -> nn.Module:
    return pyg.GINConv(nn.Sequential(nn.Linear(d_in, d_out), nn.BatchNorm1d(d_out), nn.ReLU(), nn.Linear(d_out, d_out)))


def twin(victim: Victim, net: PyGNet) -> PyGNet:
    """`net` with the weights of our GIN."""
    for mine, theirs in zip(victim.module.convs, net.convs, strict=True):
        theirs.nn.load_state_dict(mine.mlp.state_dict())
    net.lin, net.head = copy.deepcopy(victim.module.lin), copy.deepcopy(victim.module.head)
    return net


def by_pyg(module: nn.Module, graphs: Graphs) -> None:
    explainer = Explainer(
        module.eval(),
        PyGGNNExplainer(epochs=100),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={"mode": "multiclass_classification", "task_level": "graph", "return_type": "raw"},
    )
    for graph in graphs.to_pyg():
        explainer(graph.x, graph.edge_index, batch=torch.zeros(len(graph.x), dtype=torch.int64))


def main() -> None:
    one_thread()
    splits, name = tu("AIDS")
    graphs = splits.test.inputs.take(torch.arange(MANY))
    some = graphs.take(torch.arange(0, MANY, MANY // FEW))
    victim = build("victim", {"name": "gin", "layers": LAYERS, "hidden": WIDTH}).make(splits.train, 0)
    victim = build("trainer", {"name": "trainer", "epochs": 5}).fit(victim, splits.train, 0)
    nets = {kind: PyGNet(kind, graphs.x.shape[1], splits.train.n_classes) for kind in ("GIN", "GCN", "SAGE")}
    nets["GIN"] = twin(victim, nets["GIN"])
    cases = [("our GIN", victim, nets["GIN"])]
    cases += [(f"PyG {kind}", Victim(copy.deepcopy(net), "graph"), net) for kind, net in nets.items()]
    print(f"{name}: {MANY} graphs, {len(graphs.x) / MANY:.1f} nodes and {graphs.edge_index.shape[1] / MANY:.1f} edges each")
    print(f"{LAYERS} layers of {WIDTH}, graphs per CPU second on one thread (PyG from {FEW} of the graphs)\n")
    print(f"{'model':10} {'PyG':>8} {'Ostiary':>8} {'ratio':>8}")
    ratios = {}
    for label, ours, theirs in cases:
        GNNExplainer(epochs=2).explain(ours, graphs, Context())  # first calls load kernels
        loop, batched = cpu_seconds(
            lambda net=theirs: by_pyg(net, some), lambda victim=ours: GNNExplainer().explain(victim, graphs, Context())
        )
        ratios[label] = (MANY / batched) / (FEW / loop)
        print(f"{label:10} {FEW / loop:8.1f} {MANY / batched:8.1f} {ratios[label]:8.1f}")
    print()
    report("explainer-pyg-model", min(r for label, r in ratios.items() if label.startswith("PyG")), 12)
    report("explainer", ratios["our GIN"], 30)


if __name__ == "__main__":
    main()
