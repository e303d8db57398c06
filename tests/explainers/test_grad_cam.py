"""Grad-CAM against captum on images, a plain loop on graphs, and the heat maps that GCleaner differentiates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ostiary.context import Context
from ostiary.errors import BadSpec, Unsupported
from ostiary.explainers.grad_cam import GradCAM
from ostiary.explainers.heat import activation_maps, heat_maps
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.testing import toys


def loop(victim: Victim, graphs: Graphs, classes: Tensor, layer: int) -> Tensor:
    """Pope et al., one graph after the other, from the numbers a hook sees."""
    found = []
    for i, wanted in enumerate(classes.tolist()):
        one = graphs.take(torch.tensor([i]))
        seen: list[Tensor] = []
        stage = victim.module.get_submodule(victim.stages(one)[layer])
        handle = stage.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        logit = victim(one)[0, wanted]
        handle.remove()
        alpha = torch.autograd.grad(logit, seen[0])[0].mean(0)
        found.append((seen[0] @ alpha).clamp(min=0).detach())
    return torch.cat(found)


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("odd", [False, True])
def test_equals_a_loop_over_graphs(odd: bool, layer: int, graphs: Graphs) -> None:
    victim, classes = toys.victim("graph", odd=odd).double().eval(), torch.tensor([0, 1, 1, 0])
    found = GradCAM(layers=(layer,)).explain(victim, graphs, Context(), classes)
    torch.testing.assert_close(found.nodes, loop(victim, graphs, classes, layer))
    torch.testing.assert_close(found.edges, (found.nodes[graphs.edge_index[0]] + found.nodes[graphs.edge_index[1]]) / 2)
    assert found.nodes.std() > 0


def test_several_layers_are_averaged(graphs: Graphs) -> None:
    victim, images = toys.victim("image").double(), toys.splits("image").test.inputs[:3].double()
    first, last, both = (GradCAM(layers=at).explain(victim, images, Context()).pixels for at in ((0,), (-1,), (0, -1)))
    torch.testing.assert_close(both, (first + last) / 2)
    assert not torch.equal(first, last)


def test_equals_captum_on_images() -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed: pip install ostiary[explain]")
    images, classes = toys.splits("image").test.inputs[:4].double(), torch.tensor([0, 1, 1, 0])
    for odd in (False, True):
        victim = toys.victim("image", odd=odd).double().eval()
        for at, name in enumerate(victim.stages(images)):
            found = GradCAM(layers=(at,)).explain(victim, images, Context(), classes)
            cam = captum.LayerGradCam(victim, victim.module.get_submodule(name))
            raw = cam.attribute(images, classes, relu_attributions=True)
            theirs = captum.LayerAttribution.interpolate(raw, tuple(images.shape[2:]), "bilinear")
            torch.testing.assert_close(found.pixels, theirs.detach()[:, 0])


def test_one_map_by_hand() -> None:
    """Two channels of 2 x 2; the logit of class 0 is mean(first) - mean(second)."""

    class Net(nn.Module):
        stages = ("look",)

        def __init__(self) -> None:
            super().__init__()
            self.look = nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            means = self.look(images).mean((2, 3))
            return torch.stack([means[:, 0] - means[:, 1], means[:, 1]], 1)

    images = torch.tensor([[[1.0, 0.5], [0.0, 0.25]], [[0.0, 1.0], [0.0, 0.0]], [[1.0] * 2] * 2])[None].requires_grad_()
    maps = activation_maps(Victim(Net(), "image"), images, torch.tensor([0]))[1]
    torch.testing.assert_close(maps[0][0], torch.tensor([[0.25, 0.0], [0.0, 0.0625]]))


def test_heat_maps_are_its_maps_at_unit_norm_and_stay_differentiable(graphs: Graphs) -> None:
    images = toys.splits("image").test.inputs[:3].double()
    for batch, modality in ((graphs, "graph"), (images, "image")):
        victim = toys.victim(modality).double().eval()
        classes = torch.zeros(len(batch), dtype=torch.int64)
        for raw, heat in zip(*(f(victim, batch, classes)[1] for f in (activation_maps, heat_maps)), strict=True):
            group = batch.batch if isinstance(batch, Graphs) else torch.arange(3).repeat_interleave(raw[0].numel())
            norm = raw.new_zeros(len(batch)).index_add(0, group, raw.flatten().square()).sqrt()
            torch.testing.assert_close(heat.flatten() * norm[group], raw.flatten(), atol=1e-6, rtol=1e-5)
            assert norm.max() > 0
        heat = heat_maps(victim, batch, classes)[1]
        slope = torch.autograd.grad(sum(h[: len(h) // 2].sum() for h in heat), list(victim.parameters()), allow_unused=True)
        assert max(float(g.abs().max()) for g in slope if g is not None) > 0


def test_refusals(graphs: Graphs) -> None:
    victim = toys.victim("graph").double()
    with pytest.raises(BadSpec, match="the victim has 2 layers, not \\[5\\]"):
        GradCAM(layers=(5,)).explain(victim, graphs, Context())
    with pytest.raises(BadSpec, match="no layer to look at"):
        GradCAM(layers=())
    with pytest.raises(Unsupported, match="one row per node"):
        GradCAM().explain(Victim(victim.module, "graph", stages=("head",)), graphs, Context())
    images, flat = toys.splits("image").test.inputs[:2], Victim(toys.victim("image").module, "image", stages=("classifier",))
    with pytest.raises(Unsupported, match="feature maps"):
        GradCAM().explain(flat, images, Context())
