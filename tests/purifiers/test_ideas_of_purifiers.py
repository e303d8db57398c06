"""The lines that carry a purifier's idea, each held to what it must give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta

from ostiary.component import build
from ostiary.detectors.patch_places import Footprint
from ostiary.detectors.patch_search import PatchSearch
from ostiary.purifiers import d_st, graphnad, sau
from ostiary.purifiers.edge_drop import EdgeDrop
from ostiary.purifiers.misleading import Means
from ostiary.purifiers.nad import NAD
from ostiary.purifiers.node_unlearning import NodeUnlearning
from ostiary.purifiers.rehearsal import Rehearsal, distance
from ostiary.purifiers.sau import SAU, Unlearn
from ostiary.seeds import generator
from ostiary.testing import toys
from stopping import Stop, stopping


def test_nad_weighs_the_attention_maps_of_the_last_layers() -> None:
    torch.manual_seed(0)
    a, b = ([torch.randn(4, 3, 5, 5) for _ in range(3)] for _ in range(2))
    x = torch.zeros(4, 3, 5, 5)
    maps = [[F.normalize(t.square().sum(1).flatten(1), dim=1) for t in side] for side in (a, b)]
    each = [float((s - t).square().mean()) for s, t in zip(*maps, strict=True)]
    assert float(NAD(betas=(5.0, 7.0)).apart(a, b, x)) == pytest.approx(5 * each[1] + 7 * each[2])
    assert float(NAD(betas=(5.0,)).apart(a, b, x)) == pytest.approx(5 * sum(each))


def test_a_smoothed_margin_is_what_all_classes_bounds_together_allow() -> None:
    """Copies in which none of the flipped pairs shows are those of either graph, once as likely as by these powers of beta."""

    def left(share: float, added: int, deleted: int) -> float:
        return max(0.0, share - 1 + 0.9**deleted) * 0.9 ** (added - deleted)

    graphs = toys.splits("graph").test.inputs.take(torch.tensor([0]))
    how, n, k = EdgeDrop(beta=0.9, samples=100), 100, 3
    for hits in range(50, 100):
        low = beta.ppf(how.alpha / k / 2, hits, n - hits + 1)
        high = beta.ppf(1 - how.alpha / k / 2, n - hits + 1, hits)
        second = min(high, 1 - low)
        leads = [min(left(low, e - d, d) + left(1 - second, e - d, d) - 1 for d in range(e + 1)) for e in range(9)]
        want = sum(lead > 0 for lead in leads) - 1
        assert want >= sum(low - second > 2 * (1 - 0.9**e) for e in range(9)) - 1, "what both shares may lose alone allows less"
        assert int(how.certify(torch.tensor([[hits, n - hits, 0]]), graphs).margin) == want, hits


def test_sau_pushes_down_no_answer_that_was_given_before(monkeypatch: pytest.MonkeyPatch) -> None:
    old, clean, ctx = toys.victim("image"), toys.splits("image").clean, toys.context("image")
    y = (old.predict(clean.inputs).argmax(1) + 1) % clean.n_classes  # labels that nobody gives
    how = SAU(clean=0.0)
    hook = Unlearn(how, old)
    monkeypatch.setattr(Unlearn, "find", lambda s, v, batch, y, before: v.modality.unperturbed(batch))
    state = how.trainer(ctx, clean).start(old.clone(), clean, 0)
    assert float(hook.loss(state, clean.inputs, y, torch.arange(len(y))).detach()) == 0.0  # nothing has been led astray


def test_sau_pushes_down_what_the_model_is_wholly_certain_of(monkeypatch: pytest.MonkeyPatch) -> None:
    sure, clean = toys.victim("image"), toys.splits("image").clean
    head = sure.module.get_submodule(sure.head)
    with torch.no_grad():
        head.weight.mul_(1000)
    how = SAU(clean=0.0)
    away = clean.inputs[(sure.predict(clean.inputs).argmax(1) == 0).nonzero().flatten()[:1]]
    monkeypatch.setattr(Unlearn, "find", lambda s, v, batch, y, before: away - batch)
    state = how.trainer(toys.context("image"), clean).start(sure.clone(), clean, 0)
    assert float(state.victim.predict(away).softmax(1)[0, 0]) == 1.0
    Unlearn(how, sure).loss(state, clean.inputs, clean.y, torch.arange(len(clean))).backward()
    assert any(p.grad is not None and float(p.grad.norm()) > 0 for p in state.victim.parameters())


def test_sau_seeks_what_both_models_fall_for_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(a: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.arange(1.0, len(a) + 1)  # tells inputs apart

    monkeypatch.setattr(sau, "apart", apart)
    old, clean, ctx = toys.victim("image"), toys.splits("image").clean, toys.context("image")
    new = ctx.trainer.replace(epochs=2).fit(old.clone(), clean, 1).eval()
    held = []
    monkeypatch.setattr(sau, "descend", lambda loss, start, ball, **_: held.append((loss, start)) or start)
    plain = [m(clean.inputs).argmax(1) for m in (new, old)]
    sau.Unlearn(sau.SAU(eps=0.5), old).find(new, clean.inputs, clean.y, old(clean.inputs))
    ((loss, by),) = held
    said = [m(old.modality.perturb(clean.inputs, by)).float() for m in (new, old)]
    called = [s.argmax(1) for s in said]
    fooled = [c != p for c, p in zip(called, plain, strict=True)]
    both = fooled[0] & fooled[1] & (called[0] == called[1])
    assert 0 < int(both.sum()) < len(both)
    n, want = len(both), 0.0
    for s, f in zip(said, fooled, strict=True):
        want -= 0.01 * float(F.cross_entropy(s[~f], clean.y[~f], reduction="sum").detach()) / (2 * n)
    want += float(apart(*said)[~both].sum().detach()) / n
    assert float(loss(by.clone()).detach()) == pytest.approx(want, rel=1e-4, abs=1e-7)


def test_mesa_pushes_no_patch_beyond_its_level() -> None:
    victim, clean, ctx = toys.victim("image"), toys.splits("image").clean, toys.context("image")
    search = PatchSearch(Footprint.square(2), steps=10, lr=0.05, batch_size=16, hidden=8, alpha=0.0, noise=0.0, learnt=False)
    goals = torch.tensor([0])
    a, b = (search.of(victim, clean, goals, torch.tensor([level]), ctx).nets.state_dict() for level in (0.0, 1.0))
    still = replace(search, steps=1, lr=0.0).of(victim, clean, goals, torch.tensor([1.0]), ctx).nets.state_dict()
    same = [all(torch.allclose(v, still[k], atol=1e-6) for k, v in s.items()) for s in (a, b)]
    assert same == [True, False]  # what has reached its level is pushed no further


def test_mesa_spreads_its_patches() -> None:
    victim, clean, ctx = toys.victim("image"), toys.splits("image").clean, toys.context("image")
    spread = []
    for alpha in (0.0, 1.0):
        search = PatchSearch(
            Footprint.square(2), steps=60, lr=0.02, batch_size=32, hidden=16, alpha=alpha, noise=0.0, learnt=False
        )
        nets = search.of(victim, clean, torch.tensor([0]), torch.tensor([0.0]), ctx).nets
        spread.append(float(nets.draw(200, generator(0, "x"))[1].detach().std(1).mean()))
    assert spread[1] > 1.1 * spread[0]


def test_d_st_pairs_what_it_trusts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    seen = []
    monkeypatch.setattr(d_st, "Contrast", stopping(seen, lambda trusted, *_: trusted))
    how = build("purifier", {"name": "d-st", "detector": "spectral"})
    with pytest.raises(Stop):
        how.cleanse(held, ctx)
    assert seen[0].nonzero().flatten().tolist() == how.divide(held, ctx).clean.tolist()


def rehearsal(**own: Any) -> Any:
    means = replace(Means(3, 8, 2.0, 0.01, 1, 1.0, 0.9), **own)
    return Rehearsal(means, toys.victim("node"), toys.splits("node").clean, toys.context("node"))


def test_the_best_weights_of_a_rehearsal_come_back() -> None:
    hook, student = rehearsal(agree=1.0), toys.victim("node").clone()
    state = NodeUnlearning().trainer(1).start(student, hook.data, 0)
    hook.loss(state, hook.data.inputs, hook.data.y, torch.arange(len(hook.data)))  # answers are the teacher's: kept
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    hook.on_end(state)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), toys.victim("node").parameters(), strict=True))


def test_answers_are_retained_by_their_weight() -> None:
    found = []
    for retain in (1.0, 3.0):
        hook = rehearsal(retain=retain)
        hook.answers = hook.answers + 1.0
        student = toys.victim("node").clone()
        state = NodeUnlearning().trainer(1).start(student, hook.data, 0)
        found.append(float(hook.loss(state, hook.data.inputs, hook.data.y, torch.arange(len(hook.data))).detach()))
        apart = float(distance(student.eval()(hook.whole), hook.answers).detach())
    assert found[1] - found[0] == pytest.approx(2 * apart, rel=1e-4)


def test_teacher_and_student_have_epochs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        graphnad, "distilled", lambda e, c, teaching, learning, *_: seen.append((teaching.epochs, learning.epochs))
    )
    graphnad.GraphNAD(teacher_epochs=2, epochs=5).cleanse(toys.evidence("graph"), toys.context("graph"))
    assert seen == [(2, 5)]
