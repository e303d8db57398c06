"""NPD: the polarizer begins as the identity, is all that is trained, and stays in the module that comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planted import images, rates
from torch import Tensor, nn

from ostiary.component import build
from ostiary.errors import Diverged, Unsupported
from ostiary.evidence import Evidence
from ostiary.models.polarized import Polarizer, place, polarized, polarizer, watched
from ostiary.models.victim import Victim
from ostiary.perturbation import owners
from ostiary.purifiers.npd import NPD
from ostiary.purifiers.polarizing import Towards, others
from ostiary.testing import toys


@pytest.mark.parametrize("modality", ["image", "graph"])
@pytest.mark.parametrize("odd", [False, True])
def test_a_polarizer_begins_as_the_identity_and_keeps_head_and_layers(modality: str, odd: bool) -> None:
    old, clean = toys.victim(modality, odd=odd), toys.splits(modality).clean
    new = polarized(old)
    for settled in (False, True):
        if settled:
            with watched(polarizer(new)) as seen:
                new.predict(clean.inputs)
            polarizer(new).settle(seen[0])
        a, b = (v.embed(clean.inputs) for v in (old, new))
        assert all(torch.allclose(p, q, atol=1e-3, rtol=1e-3) for p, q in zip(a, b, strict=True))
    assert new.head == old.head
    assert [n.removesuffix(".layer") for n in new.stages(clean.inputs)] == list(old.stages(clean.inputs))
    assert float(polarizer(new).norm.running_var.sum()) != len(polarizer(new).mix)


@pytest.mark.parametrize("modality", ["image", "graph"])
def test_only_the_polarizer_is_trained(modality: str) -> None:
    held = toys.evidence(modality)
    found = NPD(epochs=2).purify(held, toys.context(modality))
    was = held.victim.module.state_dict()
    now = {k.replace(".layer.", "."): v for k, v in found.module.state_dict().items() if ".polarizer." not in k}
    assert was.keys() == now.keys() and all(torch.equal(was[k], now[k]) for k in was)
    assert not torch.allclose(polarizer(found).mix, torch.eye(len(polarizer(found).mix)))
    assert all(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize(
    ("modality", "options"),
    [("image", {}), ("graph", {}), ("graph", {"space": "features"})],
    ids=["images", "graphs", "features"],
)
def test_the_backdoor_falls_and_accuracy_stays(modality: str, options: dict[str, Any]) -> None:
    before, after, drop, _ = rates(NPD(**options), modality)
    assert before >= 0.7 and after <= before - 0.4 and drop <= 0.1


@pytest.mark.parametrize("layer", ["classifier", "layers.0.0.conv2", "stem"])
def test_a_layer_named_is_polarised_and_the_result_can_be_saved(layer: str) -> None:
    held, ctx, purifier = toys.evidence("image"), toys.context("image"), NPD(layer=layer, epochs=1)
    found = purifier.purify(held, ctx)
    assert isinstance(found.module.get_submodule(f"{layer}.polarizer"), Polarizer)
    again = purifier.rebuild(ctx.fresh(held.train))
    again.module.load_state_dict(found.module.state_dict())
    (a, b), (_, c) = (v.embed(held.train.inputs) for v in (found, held.victim))
    assert torch.equal(again.predict(held.train.inputs), a)
    assert b.shape == c.shape


def test_a_named_head_is_still_the_head_when_it_is_polarised() -> None:
    net = Victim(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "image", head="3")
    found = polarized(net, "3")
    assert found.head == "3.layer" and net.head == "3"
    assert torch.allclose(found.predict(images().inputs), net.predict(images().inputs), atol=1e-4)


def test_where_it_goes() -> None:
    data = {"channels": 3, "height": 32, "width": 32, "mean": [0.5] * 3, "std": [0.2] * 3, "classes": 2}
    image = build("modality", "image")
    deep = build("victim", {"name": "preact-resnet", "width": 4, "blocks": [1, 2]}).rebuild(data, image)
    assert place(deep) == "layers.1.1.conv1"
    assert place(build("victim", {"name": "svhn-cnn", "width": 4}).rebuild(data, image)) == "groups.3.0"
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5, 2))
    assert place(Victim(flat, "image")) == "2"
    assert place(toys.victim("graph")) == "convs.1"
    one = build("victim", {"name": "gcn", "layers": 1, "deep_head": False}).rebuild(
        {"width": 3, "classes": 2}, build("modality", "graph")
    )
    assert place(one) == "head"


class Idle(nn.Module):
    """Reads a layer's weight, but never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "layer", "reason"),
    [
        (nn.Linear(4, 2), "", "no layer to put|single layer|no polarizer fits"),
        (Idle(), "nowhere", "has no layer 'nowhere'"),
        (Idle(), "twice", "does not pass the polarizer"),
        (nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 2)), "1", "has no weight that tells"),
    ],
)
def test_models_without_a_place_for_it_are_refused(module: nn.Module, layer: str, reason: str) -> None:
    clean = images()
    forward = (lambda m, x: m(x.flatten(1))) if isinstance(module, nn.Linear) else None
    with pytest.raises(Unsupported, match=reason):
        NPD(layer=layer).purify(Evidence(victim=Victim(module, "image", forward=forward), clean=clean), toys.context("image"))


def test_the_class_aimed_at_is_the_likeliest_other_one() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    assert others(logits, torch.tensor([0, 2])).tolist() == [1, 1]


@pytest.mark.parametrize(("modality", "space"), [("image", "input"), ("image", "features"), ("graph", "features")])
def test_perturbations_lead_to_the_class_aimed_at(modality: str, space: str) -> None:
    victim, clean = polarized(toys.victim(modality)), toys.splits(modality).clean
    victim.eval()
    with watched(polarizer(victim)) as seen, torch.no_grad():
        goal = others(victim(clean.inputs), clean.y)
    polarizer(victim).settle(seen[0])
    hook = Towards(NPD(inner=10, eps=30.0), space)
    hook.lens = polarizer(victim)
    start = torch.zeros_like(clean.inputs if space == "input" else seen[0])
    with torch.no_grad():
        before = hook.said(victim, clean.inputs, start)
    by = hook.find(victim, clean.inputs, start, goal)
    with torch.no_grad():
        after = hook.said(victim, clean.inputs, by)
    p, q = (s.softmax(1).gather(1, goal[:, None]).mean() for s in (before, after))
    assert float(q) > float(p) + 0.2
    assert not polarizer(victim)._forward_pre_hooks


def found_by(how: NPD, modality: str) -> tuple[Tensor, Tensor]:
    """(A perturbation of the inputs by these settings, the slope of the mean loss where it starts.)"""
    victim, clean = polarized(toys.victim(modality)).eval(), toys.splits(modality).clean
    hook = Towards(how, "input")
    start = clean.modality.unperturbed(clean.inputs).requires_grad_()
    logits = hook.said(victim, clean.inputs, start)
    goal = others(logits, clean.y)
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, goal), start)
    return hook.find(victim, clean.inputs, start.detach(), goal), slope


@pytest.mark.parametrize("modality", ["image", "graph"])
def test_a_step_goes_by_the_sign_or_by_the_gradient_itself(modality: str) -> None:
    how = NPD(inner=1, step=0.1, enough=1.0, eps=1e3)
    signed, slope = found_by(how, modality)
    plain, _ = found_by(how.replace(along="gradient"), modality)
    assert torch.allclose(signed, -0.1 * slope.sign()) and torch.allclose(plain, -0.1 * slope, atol=1e-7)
    assert float(plain.abs().max()) > 0 and not torch.allclose(plain, signed)


@pytest.mark.parametrize("modality", ["image", "graph"])
def test_l1_perturbations_are_few_entries_of_each_input_and_no_longer_than_asked(modality: str) -> None:
    by, _ = found_by(NPD(norm="l1", inner=3, step=2.0, eps=4.0, enough=1.0), modality)
    owner = owners(toys.splits(modality).clean.inputs, by, len(toys.splits(modality).clean))
    for i in range(int(owner.max()) + 1):
        mine = by[owner == i]
        assert 0 < float(mine.abs().sum()) <= 4.0 + 1e-4
        assert int(mine.count_nonzero()) <= 3 * max(1, round(0.01 * mine.numel()))


def test_the_gradients_step_trains_a_polarizer_of_its_own() -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    signed, plain = (NPD(epochs=1, along=along).purify(held, ctx) for along in ("sign", "gradient"))
    assert not torch.equal(polarizer(signed).mix, polarizer(plain).mix)
    assert NPD(along="gradient").spec() != NPD().spec() and "along" not in NPD().spec()


def test_a_rate_at_which_training_diverges_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    used, trained = [], NPD.trained

    def diverging(self: NPD, given: Any, clean: Any, lr: float, hook: Any, ctx: Any) -> Any:
        used.append(lr)
        if len(used) < 3:
            raise Diverged("training diverged")
        return trained(self, given, clean, lr, hook, ctx)

    monkeypatch.setattr(NPD, "trained", diverging)
    found = NPD(steps=2, tolerance=1.0).purify(toys.evidence("image"), toys.context("image"))
    assert used == pytest.approx([0.01, 0.01 / 3, 0.001]) and found.notes["lr"] == pytest.approx(0.001)
    monkeypatch.setattr(NPD, "trained", lambda *_: (_ for _ in ()).throw(Diverged("training diverged")))
    with pytest.raises(Diverged):
        NPD(steps=2).purify(toys.evidence("image"), toys.context("image"))


@pytest.mark.parametrize("modality", ["image", "graph"])
def test_a_sample_in_chunks_leads_where_the_whole_does(modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held, found = toys.evidence(modality), []
    for most in (512, 7):
        monkeypatch.setattr(type(held.victim.modality), "chunk", most)
        made = NPD.preset("auto", epochs=1, steps=0).purify(held, toys.context(modality))
        found.append((made.notes["aimed at"], made.notes["lead"]))
    assert found[0][0] == found[1][0] and found[0][1] == pytest.approx(found[1][1], abs=0.02)


def test_a_model_in_double_precision_gets_a_polarizer_of_its_kind() -> None:
    victim = Victim(toys.victim("image").clone().module.double(), "image", forward=lambda m, b: m(b.double()))
    assert next(polarizer(polarized(victim)).parameters()).dtype == torch.float64
