"""I-BAU: the hypergradient is that of the outer loss at the inner minimum, and its perturbation is of all inputs at once."""

from __future__ import annotations

import pytest
import torch
from planted import rates
from torch import Tensor, nn

from ostiary.component import build
from ostiary.models.victim import Victim
from ostiary.purifiers.gradients import hypergradient, with_gradient
from ostiary.purifiers.holdout import accuracy
from ostiary.purifiers.i_bau import IBAU, Minimax
from ostiary.testing import toys
from ostiary.training.draws import one_pass

A = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)
CURVE = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)


def inner(by: Tensor, w: Tensor) -> Tensor:
    """Least where CURVE by = A w^2."""
    return 0.5 * by @ CURVE @ by - by @ (A @ w.square())


def outer(by: Tensor, w: Tensor) -> Tensor:
    return (by.sin() * w).sum() + by.square().sum() + w.exp().sum()


def test_the_hypergradient_is_the_slope_of_the_outer_loss_along_the_inner_minimum() -> None:
    w = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))

    def at_minimum(values: Tensor) -> Tensor:
        return outer(torch.linalg.solve(CURVE, A @ values.square()), values)

    best = torch.linalg.solve(CURVE, A @ w.detach().square())
    loss = hypergradient(lambda by: inner(by, w), lambda by: outer(by, w), best, [w], 400, 0.3)
    (found,) = torch.autograd.grad(loss, w)
    steps = 1e-6 * torch.eye(2, dtype=torch.float64)
    wanted = torch.stack([(at_minimum(w.detach() + e) - at_minimum(w.detach() - e)) / 2e-6 for e in steps])
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(loss, at_minimum(w))
    plain = hypergradient(lambda by: inner(by, w), lambda by: outer(by, w), best, [w], 0, 0.3)
    alone = torch.autograd.grad(outer(best, w), w)[0]
    assert torch.allclose(torch.autograd.grad(plain, w)[0], alone) and not torch.allclose(alone, wanted, atol=0.1)


def test_a_loss_is_given_a_gradient_and_keeps_its_value() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    loss = with_gradient(p.sum(), [p], [torch.tensor([5.0, -1.0])])
    loss.backward()
    assert float(loss.detach()) == 3.0 and p.grad is not None and p.grad.tolist() == [5.0, -1.0]


@pytest.mark.parametrize("own", [{}, {"preset": "auto"}, {"preset": "paper"}], ids=str)
def test_a_rate_at_which_the_model_collapses_is_lowered(own: dict[str, str]) -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    steady, wild = (build("purifier", {"name": "i-bau", **own, "epochs": 6, "lr": lr}).purify(held, ctx) for lr in (1e-4, 3.0))
    assert steady.notes["lr"] == 1e-4 and wild.notes["lr"] < 3.0


@pytest.mark.parametrize("modality", ["image", "graph"])
def test_one_perturbation_for_all_inputs_lowers_the_inner_loss(modality: str) -> None:
    net, clean = toys.victim(modality), toys.splits(modality).clean
    how = IBAU(ascent_steps=10, ascent_lr=1.0)
    hook = Minimax(how, clean, torch.Generator().manual_seed(0))
    hook.on_epoch(how.trainer(toys.context(modality), clean).start(net, clean, 0))
    assert hook.by.shape == (1, *(clean.inputs.x if modality == "graph" else clean.inputs).shape[1:])
    with torch.no_grad():
        start, found = (float(hook.inner(net, clean.inputs, by)) for by in (torch.zeros_like(hook.by), hook.by))
    assert found < start - 0.1


@pytest.mark.parametrize("preset", ["", "auto"])
def test_on_images_the_backdoor_falls_and_accuracy_stays(preset: str) -> None:
    before, after, drop, _ = rates(IBAU.preset(preset) if preset else IBAU(), "image")
    assert before >= 0.7 and after <= before - 0.5 and drop <= 0.1


def test_on_graphs_it_runs_and_keeps_accuracy() -> None:
    """No more: a clique is no change of node features that all nodes could share."""
    _, _, drop, found = rates(IBAU(), "graph")
    assert drop <= 0.1
    assert not torch.equal(found.module.head.weight, toys.victim("graph").module.head.weight)


def test_the_outer_step_depends_on_how_the_perturbation_answers() -> None:
    held, few = toys.evidence("image"), IBAU(epochs=1, ascent_steps=2)
    found = [few.replace(fixed_point=k).purify(held, toys.context("image")).state_dict() for k in (0, 5)]
    assert any(not torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_one_pass_meets_every_sample_once() -> None:
    data = toys.splits("image").clean
    batches = list(one_pass(data, 7, torch.device("cpu"), torch.Generator().manual_seed(0)))
    assert [len(y) for _, y in batches[:-1]] == [7] * (len(batches) - 1)
    rows = torch.cat([images.flatten(1) for images, _ in batches])
    assert len(rows) == len(data)
    assert torch.equal(rows.sort(0).values, data.inputs.flatten(1).sort(0).values)


def test_a_model_that_says_the_larger_of_two_classes_has_collapsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the accuracy on two balanced classes is what a constant has."""
    whole = toys.splits("image").clean
    clean = whole.take((whole.y < 2).nonzero().flatten())
    victim = toys.victim("image")
    assert accuracy(victim, clean) > 0.8

    def fitted(share: float) -> Victim:
        found = victim.clone()
        if share > 0.5:
            with torch.no_grad():
                weight, bias = list(found.parameters())[-2:]
                weight.zero_()
                bias.copy_(torch.tensor([1.0, 0.0, -1.0, -1.0]))
        return found

    monkeypatch.setattr(IBAU, "fitted", lambda self, v, c, h, x, f, share=1.0: fitted(share))
    found = IBAU().trained(victim, clean, Minimax(IBAU(), clean, torch.Generator()), toys.context("image"), True)
    assert found.notes["lr"] == pytest.approx(IBAU().lr / 3)
