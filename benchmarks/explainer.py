"""Explainers: all graphs at once against PyG's (and captum's, where it is installed) one graph after the other.

GNNExplainer: 100 epochs with edge and feature masks. The others: their defaults, on PyG's own GIN, save fewer
epochs and rollouts (both sides), since only the ratio counts.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.explain import CaptumExplainer, Explainer, ExplainerAlgorithm
from torch_geometric.explain.algorithm import GNNExplainer as PyGGNNExplainer
from torch_geometric.explain.algorithm import PGExplainer as PyGPGExplainer

from common import cpu_seconds, inside, one_thread, report, tu
from ostiary.component import build
from ostiary.context import Context
from ostiary.explainers.base import Explainer as OurExplainer
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.explainers.grad_cam import GradCAM
from ostiary.explainers.guided_backprop import GuidedBackprop
from ostiary.explainers.integrated_gradients import IntegratedGradients
from ostiary.explainers.pg_explainer import PGExplainer
from ostiary.explainers.subgraphx import SubgraphX
from ostiary.modality.graphs import Graphs
from ostiary.models.graph_layers import GINConv
from ostiary.models.graph_nets import GraphNet
from ostiary.models.victim import Victim

MANY, FEW = 200, 20  # graphs explained by us and by PyG, which is too slow for all of them
WIDTH, LAYERS = 64, 3
EPOCHS = 8  # of PGExplainer, both sides
OTHERS = {"pg-explainer": 5, "subgraphx": 1.7, "grad-cam": 20, "integrated-gradients": 15, "guided-backprop": 20}  # goals


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
        logits: Tensor = self.head(self.lin(pyg.global_add_pool(x, batch)).relu())
        return logits


def gin(d_in: int, d_out: int) -> nn.Module:
    mlp = nn.Sequential(nn.Linear(d_in, d_out), nn.BatchNorm1d(d_out), nn.ReLU(), nn.Linear(d_out, d_out))
    layer: nn.Module = pyg.GINConv(mlp)
    return layer


def twin(victim: Victim, net: PyGNet) -> PyGNet:
    """`net` with the weights of our GIN."""
    ours = inside(victim, GraphNet)
    for mine, theirs in zip(ours.convs, net.convs, strict=True):
        assert isinstance(mine, GINConv) and isinstance(theirs, pyg.GINConv)
        theirs.nn.load_state_dict(mine.mlp.state_dict())
    assert ours.lin is not None
    net.lin, net.head = copy.deepcopy(ours.lin), copy.deepcopy(ours.head)
    return net


def pyg_explainer(module: nn.Module, algorithm: ExplainerAlgorithm, **options: Any) -> Explainer:
    config = {"mode": "multiclass_classification", "task_level": "graph", "return_type": "raw"}
    return Explainer(module.eval(), algorithm, model_config=config, **options)


def by_pyg(module: nn.Module, graphs: Graphs) -> None:
    options = {"explanation_type": "model", "node_mask_type": "attributes", "edge_mask_type": "object"}
    explainer = pyg_explainer(module, PyGGNNExplainer(epochs=100), **options)
    for graph in graphs.to_pyg():
        explainer(graph.x, graph.edge_index, batch=torch.zeros(len(graph.x), dtype=torch.int64))


def trained_by_pyg(module: nn.Module, graphs: Graphs) -> None:
    """PGExplainer: training and explanations."""
    algorithm = PyGPGExplainer(epochs=EPOCHS)
    explainer = pyg_explainer(module, algorithm, explanation_type="phenomenon", edge_mask_type="object")
    parts = [(g.x, g.edge_index, torch.zeros(len(g.x), dtype=torch.int64)) for g in graphs.to_pyg()]
    classes = [module(*part).argmax(1) for part in parts]
    for epoch in range(EPOCHS):
        for (x, edges, batch), y in zip(parts, classes, strict=True):
            algorithm.train(epoch, module, x, edges, target=y, batch=batch)
    for (x, edges, batch), y in zip(parts, classes, strict=True):
        explainer(x, edges, target=y, batch=batch)


def by_captum(method: str) -> Callable[[nn.Module, Graphs], None]:
    """PyG's wrapper of captum, once for nodes and once for edges, as ours gives both."""

    def run(module: nn.Module, graphs: Graphs) -> None:
        for mask in ({"node_mask_type": "attributes"}, {"edge_mask_type": "object"}):
            explainer = pyg_explainer(module, CaptumExplainer(method), explanation_type="model", **mask)
            for graph in graphs.to_pyg():
                explainer(graph.x, graph.edge_index, batch=torch.zeros(len(graph.x), dtype=torch.int64))

    return run


def explained(explainer: OurExplainer, model: nn.Module, graphs: Graphs) -> None:
    """`model`: a victim, or a module, which each call wraps anew."""
    explainer.explain(model if isinstance(model, Victim) else Victim(model, "graph"), graphs, Context())


def one_by_one(explainer: OurExplainer) -> Callable[[nn.Module, Graphs], None]:
    """Our own code, a graph a call, where no other package explains such modules."""

    def run(module: nn.Module, graphs: Graphs) -> None:
        for i in range(len(graphs)):
            explained(explainer, module, graphs.take(torch.tensor([i])))

    return run


def others(net: PyGNet, graphs: Graphs) -> dict[str, float]:
    """Ratios of the other explainers on PyG's GIN."""
    cases: list[tuple[OurExplainer, str, Callable[[nn.Module, Graphs], None]]] = [
        (PGExplainer(epochs=EPOCHS), "PyG", trained_by_pyg),
        (PGExplainer(epochs=EPOCHS, batch_size=1), "PyG", trained_by_pyg),
        (SubgraphX(rollouts=4), "one by one", one_by_one(SubgraphX(rollouts=4))),
        (GradCAM(), "one by one", one_by_one(GradCAM())),
    ]
    if importlib.util.find_spec("captum") is not None:
        cases.append((IntegratedGradients(), "captum", by_captum("IntegratedGradients")))
        cases.append((GuidedBackprop(), "captum", by_captum("GuidedBackprop")))
    else:
        print("captum is not installed: no integrated-gradients, no guided-backprop\n")
    found: dict[str, float] = {}
    some = graphs.take(torch.arange(0, MANY, MANY // FEW))
    print(f"{'explainer':38} {'against':>10} {'loop':>8} {'Ostiary':>8} {'ratio':>8}")
    for explainer, against, loop in cases:
        used, part = (some, some.take(torch.arange(0, FEW, 4))) if explainer.name == "subgraphx" else (graphs, some)
        explained(explainer, net, part)
        slow, fast = cpu_seconds(partial(loop, net, part), partial(explained, explainer, net, used))
        rates = len(part) / slow, len(used) / fast
        found.setdefault(explainer.name, rates[1] / rates[0])
        print(f"{explainer.label():38} {against:>10} {rates[0]:8.1f} {rates[1]:8.1f} {rates[1] / rates[0]:8.1f}")
    return found


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
        explained(GNNExplainer(epochs=2), ours, graphs)  # first calls load kernels
        loop, batched = cpu_seconds(partial(by_pyg, theirs, some), partial(explained, GNNExplainer(), ours, graphs))
        ratios[label] = (MANY / batched) / (FEW / loop)
        print(f"{label:10} {FEW / loop:8.1f} {MANY / batched:8.1f} {ratios[label]:8.1f}")
    print()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum's, about the hooks it sets
        ratios_of_others = others(nets["GIN"], graphs)
    print()
    for label, ratio in ratios_of_others.items():
        report(f"explainer-{label}", ratio, OTHERS[label])
    report("explainer-pyg-model", min(r for label, r in ratios.items() if label.startswith("PyG")), 12)
    report("explainer", ratios["our GIN"], 30)


if __name__ == "__main__":
    main()
