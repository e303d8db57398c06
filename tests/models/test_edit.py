"""Neurons by name: which they are in any module, and that scaling them is what scaling the weights does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ostiary.component import build
from ostiary.errors import Unsupported
from ostiary.models.edit import Neurons
from ostiary.models.victim import Victim
from ostiary.testing import toys


@pytest.mark.parametrize("modality", toys.MODALITIES)
@pytest.mark.parametrize("odd", [False, True])
def test_scaled_neurons_are_a_copy_with_scaled_weights(modality: str, odd: bool) -> None:
    victim, batch = toys.victim(modality, odd=odd), toys.splits(modality).clean.inputs
    neurons = Neurons.of(victim)
    rng = torch.Generator().manual_seed(0)
    weight, bias = torch.rand(2, len(neurons), generator=rng)
    by_hand = victim.clone()
    own = dict(by_hand.named_parameters())
    with torch.no_grad():
        for name, w, b in zip(neurons.weights, weight.split(neurons.sizes), bias.split(neurons.sizes), strict=True):
            own[name].copy_((own[name].transpose(0, -1) * w).transpose(0, -1))
            if (other := name.removesuffix("weight") + "bias") in own:
                own[other].mul_(b)
    before = victim(batch)
    assert torch.allclose(neurons.logits(batch, weight, bias), by_hand(batch), atol=1e-5)
    assert torch.equal(victim(batch), before)
    assert torch.allclose(neurons.put(weight)(batch), neurons.logits(batch, weight), atol=1e-5)
    assert torch.equal(neurons.logits(batch, torch.ones_like(weight)), before)


def test_gradients_reach_every_scale() -> None:
    neurons, batch = Neurons.of(toys.victim("image")), toys.splits("image").clean.inputs
    scales = torch.ones(2, len(neurons), requires_grad=True)
    (grad,) = torch.autograd.grad(neurons.logits(batch, scales[0], scales[1])[:, 0].sum(), scales)
    assert float((grad != 0).double().mean()) > 0.8


def test_neurons_are_norms_where_there_are_any_else_layers_before_the_head() -> None:
    with_norms, without = Neurons.of(toys.victim("graph")), Neurons.of(toys.victim("node"))
    assert all(dict(with_norms.victim.named_parameters())[n].ndim == 1 for n in with_norms.weights)
    assert without.weights == ("module.convs.0.lin.weight", "module.convs.1.lin.weight")
    assert without.biases == (None, None) and len(without) == 32
    plain = build("victim", {"name": "gin", "hidden": 8, "layers": 1, "norm": False}).make(toys.splits("graph").train, 0)
    assert Neurons.of(plain).biases == ("module.convs.0.mlp.0.bias", "module.convs.0.mlp.2.bias", "module.lin.bias")


def test_embeddings_and_transposed_convolutions_have_no_neurons_on_their_first_axis() -> None:
    module = nn.Sequential(nn.ConvTranspose2d(1, 3, 2), nn.Conv2d(3, 2, 2, bias=False), nn.Flatten(), nn.Linear(2, 2))
    module.table = nn.Embedding(5, 3)
    neurons = Neurons.of(Victim(module, "image", head="3"))
    assert neurons.weights == ("module.1.weight",) and neurons.biases == (None,)


def test_a_module_that_is_only_a_head_has_none() -> None:
    with pytest.raises(Unsupported, match="before its head"):
        Neurons.of(Victim(nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False)), "image"))


class Kipf(nn.Module):
    """A layer that keeps its weight the other way round."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_in, d_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def test_a_layer_of_unknown_make_has_no_neurons_on_its_first_axis() -> None:
    module = nn.Sequential(nn.Flatten(), Kipf(4, 8), nn.Linear(8, 6), nn.Linear(6, 2))
    assert Neurons.of(Victim(module, "image", head="3")).weights == ("module.2.weight",)
    with pytest.raises(Unsupported, match="before its head"):
        Neurons.of(Victim(nn.Sequential(nn.Flatten(), Kipf(4, 8), nn.Linear(8, 2)), "image", head="2"))
