"""Victims around modules of users' own: any forward, PyG's models, heads, stages, soft edges, copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.nn.models import GAT, GCN, GIN, GraphSAGE

from ostiary.component import build
from ostiary.errors import BadSpec, InvalidInput, Unsupported
from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs
from ostiary.models.graph_layers import pool
from ostiary.models.polarized import polarized
from ostiary.models.victim import Victim, evaluating, freeze_norms, without_gradients
from ostiary.purifiers.fine_pruning import FinePruning
from ostiary.seeds import scoped
from ostiary.testing import toys
from ostiary.training.trainer import Trainer


def pyg_victim(kind: Any = GIN, **options: Any) -> Victim:
    with scoped(1, "init"):
        net = kind(4, 8, 2, 2, act="tanh", **options)
    return Victim(net, "graph", forward=lambda m, b: pool(m(b.x, b.edge_index), b)).eval()


def graphs(n: int = 6) -> Graphs:
    inputs: Graphs = toys.splits("graph").test.take(torch.arange(n)).inputs
    return inputs


@pytest.mark.parametrize("modality", toys.MODALITIES)
def test_odd_forward_trains_predicts_and_gives_features(modality: str) -> None:
    data, victim = toys.splits(modality), toys.victim(modality, odd=True)
    logits, features = victim.embed(data.test.inputs)
    assert float((logits.argmax(1) == data.test.y).double().mean()) > 0.7
    assert victim.head == "verdict"
    assert features.shape == (len(data.test), 96 if modality == "image" else 16)
    torch.testing.assert_close(victim.module.verdict(features), logits, atol=1e-5, rtol=1e-5)


def test_odd_forward_without_help_is_not_guessed() -> None:
    victim = Victim(toys.OddGraphNet(4, 2), "graph")
    with pytest.raises(TypeError):
        victim(graphs())


def test_pyg_model_with_a_pooling_forward() -> None:
    victim, g = pyg_victim(), graphs()
    logits, features = victim.embed(g)
    assert logits.shape == (6, 2)
    assert victim.head == "convs.1.nn.lins.1"
    assert features.shape == (6, 2)  # the last layer of the last convolution, pooled over nodes
    assert victim.stages(g) == ("convs.0", "convs.1")
    assert [len(layer) for layer in victim.layers(g)[1]] == [len(g.x), len(g.x)]


def test_one_row_per_node_is_told_what_to_do() -> None:
    data = toys.splits("graph")
    victim = Victim(GIN(4, 8, 2, 2), "graph")
    with pytest.raises(InvalidInput, match=r"expected \[\d+, classes\].*one row per node needs forward="):
        victim.predict(data.test.inputs)
    with pytest.raises(InvalidInput, match="one row per node needs forward="):
        Trainer(epochs=1).fit(victim, data.train, 0)


@pytest.mark.parametrize("kind", [GIN, GCN, GraphSAGE, GAT])
def test_edge_masks_reach_pyg_models(kind: Any) -> None:
    """A mask of zeros stops every message, so that no node hears of another."""
    victim, g = pyg_victim(kind), graphs()
    muted = victim(g.with_(edge_mask=torch.zeros(g.edge_index.shape[1])))
    edgeless = Graphs.build(g.x, g.edge_index[:, :2], g.n_nodes).with_(edge_mask=torch.zeros(2))
    if kind in (GIN, GraphSAGE):  # the others count masked edges in degrees or attention
        torch.testing.assert_close(muted, victim(edgeless))
    assert not torch.equal(muted, victim(g))
    assert not any(m.explain for m in victim.modules() if hasattr(m, "_edge_mask"))


@pytest.mark.parametrize("kind", [GIN, GCN])
def test_edge_weights_reach_pyg_models_whose_call_leaves_them_out(kind: Any) -> None:
    """The module names edge_weight, but the user's forward does not pass it on (and GIN would ignore it)."""
    victim, g = pyg_victim(kind), graphs()
    weight = (torch.arange(g.edge_index.shape[1]) % 2).float().requires_grad_()
    out = victim(g.with_(edge_weight=weight))
    assert not torch.allclose(out, victim(g))
    assert bool((torch.autograd.grad(out.square().sum(), weight)[0][weight == 0] != 0).any())
    if kind is GIN:  # sums: exact
        hard = Graphs.build(g.x, g.edge_index[:, weight > 0], g.n_nodes)
        torch.testing.assert_close(out, victim(hard), atol=1e-5, rtol=1e-5)


def test_finding_out_what_a_call_takes_leaves_no_trace() -> None:
    """In training mode the trial must not count as a batch for the norms."""
    victim, g = toys.victim("graph", odd=True).train(), graphs()
    before = [int(m.num_batches_tracked) for m in victim.modules() if isinstance(m, nn.BatchNorm1d)]
    victim(g.with_(edge_weight=torch.ones(g.edge_index.shape[1])))
    assert [int(m.num_batches_tracked) for m in victim.modules() if isinstance(m, nn.BatchNorm1d)] == [n + 1 for n in before]
    assert all(p.grad is None for p in victim.parameters())
    assert victim.training


def test_edge_weights_a_call_passes_on_are_used_once() -> None:
    g = graphs()
    weight = torch.full((g.edge_index.shape[1],), 0.5)
    plain = pyg_victim(GCN)
    passing = Victim(plain.module, "graph", forward=lambda m, b: pool(m(b.x, b.edge_index, b.edge_weight), b)).eval()
    expected = pool(plain.module(g.x, g.edge_index, weight), g)
    torch.testing.assert_close(passing(g.with_(edge_weight=weight)), expected)


def test_a_named_weight_that_the_model_ignores_is_applied_to_its_messages() -> None:
    """PyG's GIN has edge_weight in its signature and drops it."""

    class Wrapped(GIN):
        def forward(self, x: Any, edge_index: Any, batch: Any, edge_weight: Any = None) -> Any:
            rows = super().forward(x, edge_index, edge_weight)
            return rows.new_zeros(int(batch.max()) + 1, rows.shape[1]).index_add(0, batch, rows)

    with scoped(1, "init"):
        victim = Victim(Wrapped(4, 8, 2, 2, act="tanh"), "graph").eval()
    g = graphs()
    keep = torch.arange(g.edge_index.shape[1]) % 2 == 0
    hard = Graphs.build(g.x, g.edge_index[:, keep], g.n_nodes)
    torch.testing.assert_close(victim(g.with_(edge_weight=keep.float())), victim(hard), atol=1e-5, rtol=1e-5)


def test_modules_without_messages_cannot_weigh_edges() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 2)

        def forward(self, x: Any, batch: Any) -> Any:
            return x.new_zeros(int(batch.max()) + 1, 2).index_add(0, batch, self.lin(x))

    g = graphs()
    with pytest.raises(Unsupported, match="add an edge_weight argument"):
        Victim(Sums(), "graph")(g.with_(edge_weight=torch.ones(g.edge_index.shape[1])))


def test_head_and_stages_by_name() -> None:
    net = toys.OddImageNet(3, 4)
    images = toys.splits("image").test.inputs[:2]
    victim = Victim(net, "image", forward=toys.call_odd, head="verdict", stages=("look",))
    assert victim.stages(images) == ("look",)
    with pytest.raises(BadSpec, match=r"no submodule 'heads'; it has look, .*verdict"):
        Victim(net, "image", head="heads")
    with pytest.raises(Unsupported, match="no layer with a 2-D weight"):
        _ = Victim(nn.Sequential(nn.Conv2d(3, 4, 12), nn.Flatten()), "image").head


def test_predict_in_chunks_equals_predict_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    victim, data = toys.victim("graph"), toys.splits("graph").test
    whole, features = victim.embed(data.inputs)
    monkeypatch.setattr(type(data.modality), "chunk", 7)
    parts, again = victim.embed(data.inputs)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, features, atol=1e-5, rtol=1e-5)


def test_predict_evaluates_and_restores_each_module() -> None:
    victim = toys.victim("graph").train()
    freeze_norms(victim)
    modes = [m.training for m in victim.modules()]
    assert True in modes
    assert False in modes
    a, b = (victim.predict(toys.splits("graph").test.inputs) for _ in range(2))
    assert torch.equal(a, b)
    assert [m.training for m in victim.modules()] == modes


def test_clone_shares_nothing_but_the_forward() -> None:
    victim = toys.victim("graph", odd=True)
    other = victim.clone()
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    g = graphs()
    assert float(other(g).detach().abs().sum()) == 0
    assert float(victim(g).detach().abs().sum()) > 0


def test_contexts_restore_on_error() -> None:
    victim = toys.victim("graph").train()

    def fail() -> None:
        with evaluating(victim), without_gradients(victim):
            assert not victim.training
            assert not any(p.requires_grad for p in victim.parameters())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert victim.training
    assert all(p.requires_grad for p in victim.parameters())


def test_a_victim_can_be_edited_by_name() -> None:
    """functional_call with other weights, as pruning and unlearning do, on any module."""
    victim, g = toys.victim("graph", odd=True), graphs()
    zeros = {n: torch.zeros_like(p) for n, p in victim.named_parameters() if "verdict" in n}
    out = torch.func.functional_call(victim, zeros, (g,))
    assert float(out.detach().abs().sum()) == 0


def test_architectures_refuse_other_data() -> None:
    with pytest.raises(Unsupported, match="victim 'gin' works on graph, node data, not image"):
        build("victim", "gin").make(toys.splits("image").train, 0)


class Shared(nn.Module):
    """A network that uses one ReLU and one pooling everywhere, and holds its depths under the name `stages`."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = [2, 2]
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.relu, self.pool, self.head = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = self.pool(self.relu(self.first(images)))
        return self.head(self.relu(self.pool(self.relu(self.second(half)))).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_module_that_runs_more_than_once_is_no_layer() -> None:
    victim, images = Victim(Shared(), "image"), toys.splits("image").test.inputs[:2]
    assert victim.stages(images) == ("first", "second")
    side = images.shape[2]
    assert [tuple(out.shape) for out in victim.layers(images)[1]] == [(2, 4, side, side), (2, 6, side // 2, side // 2)]


class Tokens(nn.Module):
    """Classifies every pixel by its channels, and takes the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(2).transpose(1, 2)).mean(1)  # type: ignore[no-any-return]


def test_features_of_tokens_are_the_mean_over_tokens() -> None:
    victim, images = Victim(Tokens(), "image"), toys.splits("image").test.inputs[:5]
    logits, features = victim.embed(images)
    torch.testing.assert_close(features, images.mean((2, 3)))
    torch.testing.assert_close(victim.module.head(features), logits)


class Disordered(nn.Module):
    """Its classifier is defined before another layer with a 2-D weight, and a projection is for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.first, self.extra = nn.Linear(6, 2), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x.mean((2, 3))).relu()
        return self.extra(hidden) if self.training else self.out(hidden)


def test_the_head_is_the_layer_that_gives_the_logits_not_the_last_one_defined() -> None:
    images = toys.splits("image").test.inputs[:5]
    victim = Victim(Disordered(), "image").train()
    logits, features = victim.embed(images)
    assert victim.head == victim.clone().head == "out" and victim.module.training
    torch.testing.assert_close(victim.module.out(features), logits)
    mended = polarized(victim)
    assert mended.head == "out.layer"
    torch.testing.assert_close(mended.predict(images), logits)


class Cosine(nn.Module):
    """Its last layer compares directions with prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.prototypes = nn.Linear(3, 6), nn.Parameter(torch.randn(4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.cosine_similarity(self.first(x.mean((2, 3)))[:, None], self.prototypes, dim=-1)


def test_a_layer_that_does_not_give_the_logits_is_taken_for_the_head_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    splits = toys.splits("image")
    victim = Victim(Cosine(), "image")
    assert victim.predict(splits.test.inputs).shape[1] == 4 and victim.head == "first"
    assert "no layer of the module gives its 4 logits; features are taken before 'first'" in caplog.text
    why = FinePruning().refuse(Evidence(victim, clean=splits.clean))
    assert why == "the head 'first' is not a linear layer from 3 features to 4 logits; name one as head="


def test_a_head_of_one_logit_that_is_padded_to_two_is_the_head(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 1))
    images = toys.splits("image").test.inputs
    victim = Victim(net, "image", forward=lambda m, b: nn.functional.pad(m(b), (1, 0)))
    assert victim.predict(images).shape[1] == 2 and victim.head == "3" and "no layer" not in caplog.text


def test_a_head_that_is_never_called_is_told() -> None:
    victim = Victim(Disordered(), "image", head="extra")
    with pytest.raises(Unsupported, match="the head 'extra' is not called with the model; name the layer that gives logits"):
        victim.embed(toys.splits("image").test.inputs[:5])


class OfData(nn.Module):
    """Takes the whole batch under the name that PyG's examples give it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, data: Any) -> torch.Tensor:
        return pool(self.head(data.x), data)


def test_a_module_may_take_the_batch_as_data() -> None:
    victim, g = Victim(OfData(), "graph"), graphs()
    torch.testing.assert_close(victim(g), pool(victim.module.head(g.x), g))


@pytest.mark.parametrize("given", [None, nn.Linear, {"weight": 1}])
def test_a_victim_is_made_of_a_module(given: Any) -> None:
    with pytest.raises(BadSpec, match=r"made of an nn\.Module, got"):
        Victim(given, "image")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x: (x.mean((2, 3)),), r"m\(b\)\[0\]"),
        (lambda x: {"logits": x.mean((2, 3))}, r'm\(b\)\["logits"\]'),
        (lambda x: x, r"m\(b\)\.mean\(\(2, 3\)\)"),
    ],
)
def test_a_hint_fits_what_the_module_returned(answer: Any, hint: str) -> None:
    with pytest.raises(InvalidInput, match=hint):
        Victim(nn.Identity(), "image", forward=lambda m, b: answer(b)).predict(toys.splits("image").test.inputs[:2])


def test_a_model_learns_though_it_is_frozen_and_not_where_its_forward_takes_no_gradient() -> None:
    victim, few = toys.victim("image").clone(), toys.splits("image").test.inputs[:2]
    frozen = victim.clone()
    frozen.requires_grad_(False)
    assert frozen.learns(few) and not any(p.requires_grad for p in frozen.parameters())
    deaf = Victim(victim.module, "image", forward=torch.no_grad()(victim.call))
    assert not deaf.learns(few)


def test_a_stage_that_is_never_called_is_told() -> None:
    module = toys.victim("image").clone().module
    module.aside = nn.Linear(2, 2)  # type: ignore[assignment]
    clean = toys.splits("image").clean
    first = next(n for n, m in module.named_modules() if isinstance(m, nn.Conv2d))
    victim = Victim(module, "image", stages=(first, "aside"), head=toys.victim("image").head)
    with pytest.raises(Unsupported, match="the stage 'aside' is not called with the model; name others as stages="):
        build("purifier", "nad").purify(Evidence(victim, clean=clean), toys.context("image"))


def test_heads_share_out_all_units() -> None:
    with pytest.raises(BadSpec, match="10 units cannot be shared out among 4 heads; give a multiple of 4"):
        build("victim", {"name": "gat", "hidden": 10})
    with pytest.raises(BadSpec, match="6 units cannot be shared out among 4 heads"):
        build("victim", {"name": "gat", "widths": [8, 6]})


def test_a_convolution_that_gives_the_logits_is_the_head() -> None:
    """Its features are what enters it, pooled; a network without any layer that fits has none."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = toys.splits("image").test.inputs[:5]
    victim = Victim(net, "image")
    logits, features = victim.embed(images)
    assert victim.head == "2"
    torch.testing.assert_close(features, net[:2](images).mean((2, 3)).detach())
    torch.testing.assert_close(logits, net(images).detach())
    with pytest.raises(Unsupported, match="no layer with a 2-D weight"):
        Victim(nn.Sequential(nn.Conv2d(3, 5, 12), nn.Flatten(), Double()), "image").embed(images)


class Double(nn.Module):
    """Gives logits that no convolution gives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 1)


def test_layers_that_answer_for_all_graphs_by_the_first_are_refused() -> None:
    """`cached=True`, as in PyG's own example of a GCN for one graph."""
    with pytest.raises(
        BadSpec, match=r"the layer 'convs\.0' keeps what it made of the first graph .*build it with cached=False"
    ):
        pyg_victim(GCN, cached=True)
