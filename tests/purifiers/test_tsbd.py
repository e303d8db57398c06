"""TSBD: the planted neuron moves most when clean samples are unlearnt; what moved most goes, and fine-tuning stays calm."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from planted import TRAP, called, evidence, images, rates, victim
from torch import nn

from ostiary.component import build
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.edit import Neurons
from ostiary.models.victim import Victim
from ostiary.purifiers.gradients import Calm
from ostiary.purifiers.holdout import accuracy
from ostiary.purifiers.tsbd import LEVELS, TSBD
from ostiary.purifiers.weight_change import changes, unlearnt, zeroed
from ostiary.testing import toys
from ostiary.training.trainer import Trainer

DROWSY = 0.52  # a third pixel at which the trap is barely awake, as the neurons of real backdoors are on clean samples
UP = Trainer(optimizer="sgd", lr=0.05, epochs=40, batch_size=20)


def test_the_planted_neuron_moves_most_and_loses_what_wakes_it() -> None:
    net, data = victim(), images(third=DROWSY)
    neurons = Neurons.filters(net)
    moved = changes(neurons, unlearnt(net, data, UP.replace(epochs=1), 0)[0])
    assert int(moved[0].sum(1).argmax()) == TRAP
    found = zeroed(neurons, moved, 0.3, 0.7)
    old, new = (v.module.get_submodule("1").weight for v in (net, found))
    assert float(new[TRAP, 2].detach()) == 0.0 and torch.equal(old[:TRAP], new[:TRAP])
    marked = images(third=1.0)
    assert accuracy(net, marked) == 0.5 and accuracy(found, marked) == 1.0


def test_the_backdoor_goes_and_stays_away_while_fine_tuning() -> None:
    held, marked = Evidence(victim=victim(), clean=images(third=DROWSY)), images(third=1.0)
    found = TSBD(neurons=0.3, ascent_lr=0.05, epochs=5, steps=0).purify(held, toys.context("image"))
    assert torch.equal(called(found, marked), marked.y)
    assert found.notes["neurons"] == 0.3 and found.notes["of"] == 3


def test_unlearning_ends_when_no_more_is_right_than_by_chance() -> None:
    net, data = victim(), images(third=DROWSY)
    other, steps = unlearnt(net, data, UP, 0)
    before, _ = unlearnt(net, data, UP.replace(epochs=max(1, steps - 1)), 0)
    assert accuracy(net, data) == 1.0 and accuracy(other, data) <= 0.5 < accuracy(before, data)
    assert 1 < steps < 40


def test_neurons_of_all_layers_are_ranked_together_and_so_are_their_weights() -> None:
    net = Victim(nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(1, 2)), "image")
    neurons = Neurons.filters(net)
    moved = [torch.tensor([[5.0, 1.0], [0.1, 0.1]]), torch.tensor([[2.0, 3.0]])]  # sums 6, 0.2, 5
    found = dict(zeroed(neurons, moved, 0.6, 0.5).named_parameters())
    kept = [(found[n] == neurons.own[n]).tolist() for n in neurons.weights]
    assert kept == [[[False, True], [True, True]], [[True, False]]]
    whole = dict(zeroed(neurons, moved, 0.6, 0.0).named_parameters())
    assert all(torch.equal(whole[n], neurons.own[n]) for n in neurons.weights)


def test_filters_are_convolutions_where_there_are_any_and_no_shortcuts() -> None:
    image, graph = Neurons.filters(toys.victim("image"), ("shortcut",)), Neurons.filters(toys.victim("graph"))
    assert all("conv" in n or "stem" in n for n in image.weights) and not any("shortcut" in n for n in image.weights)
    assert len(image.weights) == 5 and any("shortcut" in n for n in Neurons.filters(toys.victim("image")).weights)
    assert [n.split(".")[1] for n in graph.weights] == ["convs"] * 4 + ["lin"]


def test_of_norms_channels_lose_their_weight_and_no_bias_nor_filter_changes() -> None:
    net, data = victim(norm=True), images(third=DROWSY)
    neurons = Neurons.filters(net, norms=True)
    assert neurons.weights == ("module.2.weight",)
    moved = changes(neurons, unlearnt(net, data, UP.replace(epochs=1), 0)[0])
    found = zeroed(neurons, moved, 0.3, 0.7)
    gone = int(moved[0].argmax())
    was, now = net.module.state_dict(), found.module.state_dict()
    assert [k for k in was if not torch.equal(was[k], now[k])] == ["2.weight"]
    assert now["2.weight"].nonzero().flatten().tolist() == [i for i in range(3) if i != gone]
    half = zeroed(neurons, [torch.tensor([0.3, 0.1, 0.2])], 1.0, 0.5)  # of three channels chosen, the two that moved most
    assert half.module.state_dict()["2.weight"].tolist() == [0.0, 1.0, 0.0]


def test_norms_of_shortcuts_are_left_alone_as_their_filters_are() -> None:
    net = build("victim", {"name": "resnet", "width": 4, "blocks": [1, 1]}).make(toys.splits("image").train, 0)
    every, some = (Neurons.filters(net, without, norms=True).weights for without in ((), ("shortcut",)))
    assert any("shortcut" in n for n in every) and some == tuple(n for n in every if "shortcut" not in n)
    assert all(net.get_parameter(n).ndim == 1 for n in every)
    assert Neurons.filters(toys.victim("graph"), norms=True).weights == Neurons.of(toys.victim("graph")).weights


@pytest.mark.parametrize("modality", ["image", "graph"])
def test_the_options_layers_says_what_loses_weights(modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[Neurons] = []

    def noted(neurons: Neurons, *given: Any) -> Victim:
        ranked.append(neurons)
        return zeroed(neurons, *given)

    monkeypatch.setattr("ostiary.purifiers.tsbd.zeroed", noted)
    few, held, ctx = TSBD(neurons=0.3, steps=1, ascent_epochs=1), toys.evidence(modality), toys.context(modality)
    found = [how.purify(held, ctx).notes["of"] for how in (few, few.replace(layers="bn"))]
    dims = [{len(n.own[w].shape) for w in n.weights} for n in ranked]
    assert dims[1] == {1} and 1 not in dims[0]
    assert found == [len(n) for n in ranked]
    assert "layers" not in few.spec() and few.replace(layers="bn").spec()["layers"] == "bn"


def test_a_model_without_norms_is_refused_where_they_are_to_lose_weights() -> None:
    with pytest.raises(Unsupported, match=r"not applicable: the module has no BatchNorm with weights .*; take layers=conv$"):
        TSBD(layers="bn").purify(evidence(), toys.context("image"))
    TSBD(layers="bn", neurons=0.3, steps=1, ascent_epochs=1).purify(evidence(norm=True), toys.context("image"))


def test_the_gradient_is_mixed_with_that_of_weights_moved_along_it_tensor_by_tensor() -> None:
    net, data = victim(), images(third=DROWSY)
    state = UP.start(net, data, 0)
    own = list(net.parameters())
    loss = Calm(0.05, 0.7).loss(state, data.inputs, data.y, torch.arange(len(data)))
    mixed = torch.autograd.grad(loss, own)

    def slopes(model: Victim) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(model(data.inputs), data.y), list(model.parameters()))

    here, moved = slopes(net), net.clone()
    for p, g in zip(moved.parameters(), here, strict=True):
        p.data += 0.05 * g / g.norm()
    wanted = [0.3 * a + 0.7 * b for a, b in zip(here, slopes(moved), strict=True)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mixed, wanted, strict=True))
    assert not torch.allclose(mixed[0], here[0], atol=1e-3)


def test_the_share_is_the_smallest_that_costs_half_of_the_accuracy_and_halved_while_accuracy_does_not_come_back() -> None:
    data, made = images(), dict[float, Victim]()

    def model(good: bool) -> Victim:
        made[len(made)] = found = victim()
        if not good:
            found.module.get_submodule("4").weight.data.neg_()
        return found

    def trial(without: Callable[[float], Victim], tuned: Callable[[float], Victim]) -> Any:
        return SimpleNamespace(victim=victim(), data=data, without=without, tuned=tuned)

    def choice(back: Callable[[float], bool]) -> tuple[float, dict[str, object]]:
        return TSBD().choose(trial(lambda s: model(s < 0.2), lambda s: model(back(s))), data)

    assert choice(lambda s: True)[0] == 0.2
    assert choice(lambda s: s < 0.15)[0] == 0.1
    assert choice(lambda s: False)[0] == 0.2  # nothing helps: the first
    assert TSBD().choose(trial(lambda s: model(True), lambda s: model(True)), data)[0] == LEVELS[-1] == 0.5


@pytest.mark.parametrize("modality", ["image", "graph"])
@pytest.mark.parametrize("layers", ["conv", "bn"])
def test_the_backdoor_falls_and_accuracy_stays(modality: str, layers: Literal["conv", "bn"]) -> None:
    before, after, drop, found = rates(TSBD(layers=layers), modality)
    assert before >= 0.7 and after <= before - 0.5 and drop <= 0.15
    assert found.notes["neurons"] <= 0.5 and found.notes["checked on"] > 0


def test_once_the_share_is_chosen_all_of_the_sample_is_trained_on() -> None:
    few, held, ctx = TSBD(steps=4, ascent_epochs=2), evidence(), toys.context("image")
    found = few.purify(held, ctx)
    assert found.notes["checked on"] < len(held.clean or ())
    again = few.replace(neurons=found.notes["neurons"]).purify(held, ctx)
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_oracle_chooses_by_the_test_set() -> None:
    asked: list[Victim] = []

    def oracle(candidate: Victim) -> tuple[float, float]:
        asked.append(candidate)
        return 1.0, float(len(asked) != 3)

    held = evidence()
    assert "oracle" in TSBD(oracle=True).needed()
    few = TSBD(oracle=True, steps=1, ascent_epochs=1)
    found = few.purify(Evidence(victim=held.victim, clean=held.clean, oracle=oracle), toys.context("image"))
    assert len(asked) == len(LEVELS) and found.notes["neurons"] == LEVELS[2]
    assert found.notes["chosen by"] == "accuracy and success on the test set"


def test_steps_make_as_many_epochs_as_hold_them() -> None:
    assert TSBD(steps=10, batch_size=8).passes(images(20)) == 4  # three steps an epoch
    assert TSBD(epochs=7, steps=0).passes(images(20)) == 7
    many = images(72)
    assert TSBD().passes(many) == 40 and TSBD(batches=0).passes(many) == 100 and TSBD.preset("paper").passes(many) == 20


def test_a_model_of_one_layer_is_refused() -> None:
    held = Evidence(victim=Victim(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "image"), clean=images())
    with pytest.raises(Unsupported, match="no linear or convolutional layer before its head"):
        TSBD().purify(held, toys.context("image"))


def test_a_climb_without_end_stops_at_the_last_finite_weights() -> None:
    held = toys.evidence("graph")
    trainer = Trainer(optimizer="sgd", lr=1e3, epochs=50)
    climbed, _ = unlearnt(held.victim, held.clean, trainer, 0)
    assert all(bool(torch.isfinite(p).all()) for p in climbed.parameters())
    TSBD(ascent_lr=1e3, steps=1).purify(held, toys.context("graph"))
