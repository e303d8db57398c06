"""What is handed to methods is checked at the door: its types, and that the victim can be asked about the data."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.nn import GraphConv, global_add_pool

import ostiary
from ostiary import console
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import Diverged, InvalidInput, MissingEvidence, Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.gradients import hypergradient
from ostiary.testing import toys
from ostiary.training.trainer import Trainer


@pytest.mark.parametrize(
    ("field", "given", "words"),
    [("victim", nn.Linear(2, 2), "make one by Victim"), ("clean", [1, 2], "make one by ostiary.graphs")],
)
def test_evidence_is_of_its_types(field: str, given: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Evidence(**{field: given})


def test_evidence_that_is_not_there_is_named_and_another_is_made_of_it() -> None:
    clean = toys.splits("image").clean
    held = Evidence(clean=clean)
    with pytest.raises(MissingEvidence, match="holds no victim"):
        _ = held.victim
    assert held.oracle is None and held.clean is clean and held.has("clean") and not held.has("clean", "train")
    more = held.but(train=clean)
    assert more.has("clean", "train") and more.train is clean and not held.has("train")
    assert not more.but(clean=None).has("clean") and not held.but(clean=clean.take(torch.arange(0))).has("clean")


def asked(victim: Victim, name: str) -> None:
    """A detector and a purifier of images."""
    clean = toys.splits("image").clean
    held = Evidence(victim, train=clean, clean=clean, incoming=clean)
    method = build("detector" if name in ("strip", "spectral", "neural-cleanse") else "purifier", name)
    (method.inspect if hasattr(method, "inspect") else method.purify)(held, toys.context("image"))


METHODS = pytest.mark.parametrize("name", ["strip", "spectral", "neural-cleanse", "fine-tune"])


@METHODS
def test_a_model_that_does_not_fit_the_data_is_told_in_a_sentence(name: str) -> None:
    narrow = Victim(nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)), "image")
    with pytest.raises(InvalidInput, match=r"cannot be called on the .*give data it was made for, or say how"):
        asked(narrow, name)
    few = Victim(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), "image")
    with pytest.raises(InvalidInput, match=r"knows 2 classes but the .* have 4"):
        asked(few, name)


def test_outputs_without_a_clean_sample_are_scanned_and_not_unlearned() -> None:
    clean, victim = toys.splits("image").clean, toys.victim("image")
    some = replace(clean.take((clean.y < 3).nonzero().flatten()), classes=clean.classes[:3])
    found = build("detector", {"name": "neural-cleanse", "steps": 2}).inspect(
        Evidence(victim, clean=some), toys.context("image")
    )
    assert len(found.scores) == 4 and list(found.info["classes"]) == [*clean.classes[:3], "output 3"]
    with pytest.raises(
        InvalidInput, match=r"have none of 'output 3'; give at least one of each, or .* gives the first 3 columns"
    ):
        build("purifier", "fine-tune").purify(Evidence(victim, clean=some), toys.context("image"))
    less = Victim(victim.module, "image", forward=lambda m, b: m(b)[:, :3])
    build("purifier", {"name": "fine-tune", "epochs": 1}).purify(Evidence(less, clean=some), toys.context("image"))


def test_a_model_that_knows_nothing_of_the_clean_samples_is_doubted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that normalises outside of the module, where its inputs come without; said once by a process."""
    monkeypatch.setattr(console, "_said", set())
    clean, victim = toys.splits("image").clean, toys.victim("image")
    turned = Victim(victim.module, "image", forward=lambda m, b: m(b).roll(1, 1))
    evidence = Evidence(victim=turned, clean=clean)
    for _ in range(2):
        evidence.checked()
    (said,) = [r.getMessage() for r in caplog.records]
    assert f"of the {len(clean)} clean samples right: are inputs prepared as in its training" in said
    Evidence(victim=victim, clean=clean).checked()
    assert len(caplog.records) == 1


def test_labels_that_begin_at_one_are_told_apart_from_too_many_classes() -> None:
    clean, victim = toys.splits("image").clean, toys.victim("image")
    late = Dataset.of(clean.inputs, clean.y + 1, "image")
    with pytest.raises(InvalidInput, match="none of them is 0, from which labels are numbered: take 1 off each"):
        Evidence(victim=victim, clean=late).checked()
    wider = Victim(victim.module, "image", forward=lambda m, b: torch.nn.functional.pad(m(b), (1, 0), value=-9.0))
    with pytest.raises(InvalidInput, match="forward that gives the columns from 1 on, and take 1 off each label"):
        build("purifier", "fine-tune").purify(Evidence(victim=wider, clean=late), toys.context("image"))


def test_kinds_that_an_embedding_looks_up_are_told_how_to_pass_gradients(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_said", set())

    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer, self.out = nn.Embedding(4, 8), GraphConv(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
            h = self.layer(self.table(x[:, 0].long()), edge_index).relu()
            return self.out(global_add_pool(h, batch))

    clean = toys.splits("graph").clean
    numbered = Dataset.of(clean.inputs.with_(x=clean.inputs.x.argmax(1, keepdim=True).float()), clean.y, "graph")
    evidence = Evidence(victim=Victim(Kinds(), "graph"), clean=numbered)
    with pytest.raises(Unsupported, match="kinds that an embedding looks up pass none: give a one-hot"):
        build("purifier", "sau").purify(evidence, toys.context("graph"))
    build("purifier", {"name": "gcleaner", "preset": "fast", "rounds": 1, "epochs": 1}).purify(evidence, toys.context("graph"))
    assert "triggers are looked for in edges alone" in caplog.text


def test_a_module_of_one_output_is_told_how_to_give_two() -> None:
    data = toys.splits("image").clean
    two = data.take((data.y < 2).nonzero().flatten())
    one = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    for module in (one, nn.Sequential(one, nn.Flatten(0))):
        with pytest.raises(InvalidInput, match=r"logit.*torch\.nn\.functional\.pad|torch\.nn\.functional\.pad.*logit"):
            Evidence(Victim(module, "image"), clean=replace(two, classes=("a", "b"))).checked()
    wide = Victim(one, "image", forward=lambda m, b: nn.functional.pad(m(b), (1, 0)))
    assert wide(two.inputs).softmax(1)[:, 1].allclose(one(two.inputs)[:, 0].sigmoid())
    Evidence(wide, clean=replace(two, classes=("a", "b"))).checked()


@METHODS
def test_answers_that_are_no_numbers_are_no_all_clear(name: str) -> None:
    broken = toys.victim("image").clone()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(InvalidInput, match="NaN or infinite values; load sound weights"):
        asked(broken, name)


def test_a_model_without_gradients_is_neither_searched_nor_trained() -> None:
    victim = toys.victim("image").clone()
    deaf = Victim(victim.module, "image", forward=torch.no_grad()(victim.call))
    with pytest.raises(Unsupported, match="passes no gradient to search by"):
        asked(deaf, "neural-cleanse")
    for name in ("fine-tune", "nad", "anp", "tsbd", "i-bau", "sau", "npd"):
        with pytest.raises(Unsupported, match=r"pass no gradient to its weights; call the module .* without torch.no_grad"):
            asked(deaf, name)


def test_a_forward_that_calls_another_module_than_its_own_trains_neither() -> None:
    net = toys.victim("image").clone().module.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    stray = Victim(net, "image", forward=lambda m, b: net(b))
    for name in ("fine-tune", "fine-pruning", "nad", "anp", "tsbd", "i-bau", "sau", "mesa", "npd"):
        with pytest.raises(Unsupported, match="call the module that `forward` is given"):
            asked(stray, name)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    hollow = Victim(nn.Identity(), "image", forward=lambda m, b: net(b))
    with pytest.raises(Unsupported, match="call the module that `forward` is given"):
        asked(hollow, "fine-tune")


def test_weights_of_half_precision_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"torch.bfloat16, too coarse to train or to measure; call module.float\(\)"):
        asked(Victim(toys.victim("image").clone().module.bfloat16(), "image"), "fine-tune")


class WithAside(nn.Module):
    """Answers twice in training, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.module = toys.victim("image").clone().module

    def forward(self, x: torch.Tensor) -> Any:
        said = self.module(x)
        return (said, said) if self.training else said


@pytest.mark.parametrize("name", ["fine-tune", "tsbd", "i-bau", "sau"])
def test_a_module_that_answers_otherwise_in_training_is_told_how_to_be_called(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"returned tuple, .*forward=lambda m, b: m\(b\)\[0\] if m.training else m\(b\)"):
        asked(Victim(WithAside(), "image"), name)


def test_an_old_spectral_norm_is_no_hindrance() -> None:
    module = toys.victim("image").clone().module
    last = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    nn.utils.spectral_norm(last)
    victim = Victim(module, "image")
    assert victim.learns(toys.splits("image").clean.inputs[:1])
    build("purifier", {"name": "sau", "steps": 2}).purify(
        Evidence(victim, clean=toys.splits("image").clean), toys.context("image")
    )


def test_a_model_that_is_not_trained_has_to_fit_all_the_same() -> None:
    data = toys.splits("image").train
    few = Victim(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), "image")
    with pytest.raises(InvalidInput, match="2 logits for 4 classes"):
        Trainer(epochs=0).fit(few, data, 0)
    other = replace(data, inputs=data.inputs[:, :1])
    with pytest.raises(InvalidInput, match="takes floats"):
        Trainer(epochs=0).fit(toys.victim("image").clone(), other, 0)


def test_a_frozen_model_that_is_not_trained_is_judged_as_it_is() -> None:
    victim, data = toys.victim("image").clone(), toys.splits("image").train
    victim.requires_grad_(False)
    assert Trainer(epochs=0).fit(victim, data, 0) is victim and not victim.training
    with pytest.raises(InvalidInput, match="no parameter that may be trained"):
        Trainer(epochs=1).fit(victim, data, 0)


def test_a_second_derivative_goes_through_attention() -> None:
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    images = torch.rand(2, 3, 4)

    def inner(by: torch.Tensor) -> torch.Tensor:
        moved = images + by
        return layer(moved, moved, moved, need_weights=False)[0].square().sum()  # type: ignore[no-any-return]

    parameters = list(layer.parameters())
    hypergradient(inner, inner, torch.zeros(1, 3, 4), parameters, 2, 0.1).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)


@pytest.mark.parametrize("seed", ["a", 1.5, None])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(InvalidInput, match="expected a whole number"):
        Context(seed=seed)


@pytest.mark.parametrize("given", [{"architecture": "gin"}, {"trainer": {"epochs": 3}}, {"device": "cpu"}])
def test_parts_of_a_context_are_made_by_their_makers(given: dict[str, Any]) -> None:
    name, held = next(iter(given.items()))
    with pytest.raises(InvalidInput, match=rf"a context's {name} is {re.escape(repr(held))}, expected what"):
        Context(**given)


class InPlace(nn.Module):
    """Normalises what it is given where it stands."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images.sub_(0.5).div_(0.25))  # type: ignore[no-any-return]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", ["fine-tune", "nad", "i-bau", "sau", "npd"])
def test_a_module_that_works_in_place_changes_nobodys_data(name: str, own: bool) -> None:
    held = toys.evidence("image")
    victim = Victim(InPlace(held.victim.clone().module), "image", forward=(lambda m, b: m(b)) if own else None)
    given = held.clean.inputs.clone()
    part = build("purifier", name)
    quick = {k: 1 for k in ("epochs", "rounds", "ascent_steps") if hasattr(part, k)} | (
        {"steps": 2} if hasattr(part, "steps") else {}
    )
    part.replace(**quick).purify(Evidence(victim, clean=held.clean), toys.context("image"))
    assert torch.equal(held.clean.inputs, given)


def test_tensors_of_ones_own_are_copied() -> None:
    mine = toys.splits("image").clean.inputs.clone()
    data = ostiary.images(mine, toys.splits("image").clean.y)
    mine.zero_()
    assert float(data.inputs.max()) > 0


def test_a_result_that_is_plainly_broken_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Breaking(Purifier):
        """Not registered."""

        def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
            found = evidence.victim.clone()
            with torch.no_grad():
                found.module.get_submodule(found.head).bias[1] += self.shift  # type: ignore[union-attr, operator]
            return found

        shift: float = 1e6

    held, ctx = toys.evidence("graph"), toys.context("graph")
    found = Breaking().purify(held, ctx)
    assert found.notes["accuracy on its clean samples"]["after"] < found.notes["accuracy on its clean samples"]["before"]
    (line,) = [r.getMessage() for r in caplog.records]
    assert "it says '1' of all of them; do not use this model" in line
    caplog.clear()
    assert Breaking(shift=0.0).purify(held, ctx).notes and not caplog.records
    with pytest.raises(Diverged, match="outputs are not finite"):
        Breaking(shift=float("inf")).purify(held, ctx)
