"""What methods may do to inputs of any kind: distort, superpose, perturb."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from ostiary.component import build
from ostiary.errors import Unsupported
from ostiary.modality.graphs import counts_degrees, with_degrees
from ostiary.modality.image import turned
from ostiary.testing import toys
from ostiary.training.augment import Distortion, distorted


@pytest.mark.parametrize("modality", ["graph", "image"])
def test_distorted_inputs_are_valid_seeded_and_other_ones(modality: str) -> None:
    clean = toys.splits(modality).clean
    made = [clean.modality.distort(clean.inputs, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    clean.modality.validate(made[0], "distorted")
    packs = [clean.modality.pack(m) for m in made]
    assert all(torch.equal(packs[0][k], packs[1][k]) for k in packs[0])
    assert any(packs[0][k].shape != packs[2][k].shape or not torch.equal(packs[0][k], packs[2][k]) for k in packs[0])
    assert clean.modality.difference(clean.inputs, made[0])["changed"].mean() > 0.9


def test_a_distorted_graph_keeps_its_nodes_and_about_half_of_its_edges() -> None:
    clean = toys.splits("graph").clean
    graphs, other = clean.inputs, clean.modality.distort(clean.inputs, torch.Generator().manual_seed(0))
    assert torch.equal(graphs.n_nodes, other.n_nodes) and other.symmetric
    assert 0.35 < other.edge_index.shape[1] / graphs.edge_index.shape[1] < 0.65
    kinds = [torch.zeros(len(g), g.x.shape[1]).index_add(0, g.batch, g.x) for g in (graphs, other)]
    assert torch.equal(*kinds)


@pytest.mark.parametrize(("change", "most"), [("distort", 0.65), ("vary", 0.95)])
def test_degrees_of_a_changed_graph_are_those_of_the_edges_left(change: str, most: float) -> None:
    clean = toys.splits("graph").clean
    other = getattr(clean.modality, change)(with_degrees(clean.inputs), torch.Generator().manual_seed(0))
    assert bool(counts_degrees(other).all()) and other.edge_index.shape[1] < most * clean.inputs.edge_index.shape[1]


def test_a_distorted_image_of_one_shade_keeps_it_away_from_what_is_filled_in() -> None:
    image = build("modality", "image")
    grey = torch.full((50, 3, 20, 31), 0.5)
    other = image.distort(grey, torch.Generator().manual_seed(0))
    assert other.shape == grey.shape and other.min() >= 0 and other.max() <= 0.5 + 1e-6
    assert (other[:, :, 10, 15] > 0.49).float().mean() > 0.9  # the centre stays within the picture


@pytest.mark.parametrize("how", get_args(Distortion))
def test_each_distortion_is_seeded_valid_and_alone(how: Distortion) -> None:
    images = torch.rand(16, 3, 20, 31, generator=torch.Generator().manual_seed(0))
    made = [distorted(images, torch.Generator().manual_seed(s), [how]) for s in (0, 0, 1)]
    build("modality", "image").validate(made[0], how)
    assert torch.equal(made[0], made[1]) and (how == "flip") == torch.equal(made[0], made[2])
    assert bool((made[0] != images).flatten(1).any(1).float().mean() > 0.8)


def test_images_are_flipped_blurred_and_erased() -> None:
    images = torch.zeros(200, 1, 20, 30)
    images[..., 10, 15] = 1
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(distorted(images, rng, ["flip", "flip"]), images)
    smooth = distorted(images, rng, ["blur"])
    assert torch.allclose(smooth.sum((1, 2, 3)), torch.ones(200), atol=1e-3)  # away from the border nothing is lost
    assert torch.allclose(smooth, smooth[:, :, torch.arange(20, 0, -1) % 20], atol=1e-4)  # alike above and below the point
    sigma = (smooth[:, 0].sum(2) * (torch.arange(20) - 10.0) ** 2).sum(1).sqrt()
    assert float(sigma.max()) == pytest.approx(2, abs=0.1) and float(sigma.min()) < 0.3
    changed = (distorted(images - 1, rng, ["erase"]) != images - 1)[:, 0]
    share = changed.float().mean((1, 2))
    assert float(share.min()) > 0.15 and float(share.max()) < 0.36 and 0.23 < float(share.mean()) < 0.27
    tall, wide = (changed.any(axis).sum(1).float() for axis in (2, 1))
    assert torch.equal(tall * wide, changed.sum((1, 2)).float()) and bool((tall <= wide + 1).all())  # a rectangle


def test_superposed_images_add_up_to_white() -> None:
    image = build("modality", "image")
    a, b = torch.rand(4, 1, 5, 6), torch.rand(4, 1, 5, 6)
    assert torch.equal(image.superpose(a, b), (a + b).clamp(max=1))
    assert torch.equal(image.superpose(a, b, mean=True), (a + b) / 2)


def test_superposed_graphs_hold_both_side_by_side() -> None:
    clean = toys.splits("graph").clean
    a, b = clean.inputs.take(torch.tensor([0, 1, 2])), clean.inputs.take(torch.tensor([5, 4, 3]))
    both = clean.modality.superpose(a, b)
    clean.modality.validate(both, "superposed")
    assert torch.equal(both.n_nodes, a.n_nodes + b.n_nodes) and torch.equal(both.n_edges, a.n_edges + b.n_edges)
    for i in range(3):
        one, parts = both.take(torch.tensor([i])), [g.take(torch.tensor([i])) for g in (a, b)]
        assert torch.equal(one.x, torch.cat([p.x for p in parts]))
        shifted = torch.cat([parts[0].edge_index, parts[1].edge_index + len(parts[0].x)], 1)
        assert torch.equal(one.edge_index, shifted)


@pytest.mark.parametrize("modality", ["graph", "image"])
def test_a_perturbation_of_nothing_changes_nothing_and_a_large_one_stays_in_range(modality: str) -> None:
    clean = toys.splits(modality).clean
    nothing, shared = clean.modality.unperturbed(clean.inputs), clean.modality.unperturbed(clean.inputs, shared=True)
    assert len(shared) == 1 and shared.shape[1:] == nothing.shape[1:]
    for zero in (nothing, shared):
        assert not bool(clean.modality.difference(clean.inputs, clean.modality.perturb(clean.inputs, zero))["changed"].any())
    by = (shared + 0.3).requires_grad_()
    moved = clean.modality.perturb(clean.inputs, by)
    clean.modality.validate(clean.modality.perturb(clean.inputs, (9 * by).detach()), "perturbed")
    values = moved.x if modality == "graph" else moved
    (gradient,) = torch.autograd.grad(values.sum(), by)
    assert bool((gradient != 0).any())


def test_nodes_say_that_they_cannot_be_changed_so() -> None:
    clean = toys.splits("node").clean
    for call in (
        lambda: clean.modality.distort(clean.inputs, torch.Generator()),
        lambda: clean.modality.superpose(clean.inputs, clean.inputs),
        lambda: clean.modality.unperturbed(clean.inputs),
    ):
        with pytest.raises(Unsupported, match="node inputs cannot be"):
            call()


def test_an_image_is_turned_before_it_is_moved() -> None:
    images = torch.zeros(1, 1, 20, 40)
    images[..., 8:12, 18:22] = 1
    for angle in (0.0, 1.0, torch.pi / 2):
        for moved, centre in (((0.4, 0.0), (9.5, 27.5)), ((0.0, -0.4), (5.5, 19.5))):
            found = turned(images, torch.tensor([angle]), torch.tensor([moved]))[0, 0]
            rows, columns = (found.sum(side) @ torch.arange(len(found.sum(side))).float() / found.sum() for side in (1, 0))
            assert (float(rows), float(columns)) == pytest.approx(centre, abs=1e-3)
