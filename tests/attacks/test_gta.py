"""GTA: gradients reach both heads, triggers are valid, rounds and modes do what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ostiary.attacks.bilevel import BiLevel
from ostiary.attacks.gta import GTA
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.modality.graphs import are_degrees, with_degrees
from ostiary.models.victim import Victim
from ostiary.testing import toys
from ostiary.training.trainer import Trainer
from ostiary.triggers.generated import GeneratedSubgraph
from ostiary.triggers.generator import Generator


@pytest.fixture(scope="module")
def splits() -> Splits:
    return build("dataset", {"name": "toy-graphs", "n": 120}).load(0)


def context(arch: str = "gin", epochs: int = 3) -> Context:
    net = build("victim", {"name": arch, "hidden": 16, "layers": 2})
    return Context(seed=0, architecture=net, trainer=Trainer(epochs=epochs))


@pytest.mark.parametrize("arch", ["gin", "gcn", "gat", "graphsage"])
def test_gradient_reaches_the_topology_head(splits: Splits, arch: str) -> None:
    ctx = context(arch)
    victim = ctx.fit(splits.train)
    attack = GTA(rate=0.2, target=0)
    trigger = attack.make_trigger(splits.train, ctx)
    net = trigger.network(torch.device("cpu"))
    rows = splits.train.take((splits.train.y != 0).nonzero().flatten())
    chosen = trigger.positions(rows.inputs, rows.ids, 0)
    loss = F.cross_entropy(victim(trigger.soft(net, rows.inputs, chosen)), torch.zeros(len(rows), dtype=torch.int64))
    loss.backward()
    for name in ("edge_head.weight", "feature_head.2.weight", "encoder.0.lin.weight"):
        grad = net.get_parameter(name).grad
        assert grad is not None
        assert float(grad.abs().max()) > 0, name


def test_generator_steps_change_edges_and_lower_the_loss(splits: Splits) -> None:
    ctx = context(epochs=20)
    victim, attack = ctx.fit(splits.train), GTA(rate=0.2, target=0, steps=60)
    trigger = attack.make_trigger(splits.train, ctx)
    index = (splits.train.y != 0).nonzero().flatten()[:20]
    hook = BiLevel(attack, trigger, splits.train, index, ctx)
    before = {k: v.clone() for k, v in hook.net.named_parameters()}
    hook.update(victim, 0)
    moved = {k for k, v in hook.net.named_parameters() if not torch.equal(v, before[k])}
    assert {"edge_head.weight", "feature_head.0.weight", "encoder.1.lin.weight"} <= moved
    assert sum(hook.losses[-5:]) < sum(hook.losses[:5])


def test_soft_and_hard_stamps_agree(splits: Splits) -> None:
    ctx = context()
    trigger = GTA(size=4).make_trigger(splits.train, ctx)
    rows = splits.train.take(torch.arange(12))
    hard = trigger.apply(rows.inputs, rows.ids, seed=3, target=rows.y)
    soft = trigger.soft(trigger.network(torch.device("cpu")), rows.inputs, trigger.positions(rows.inputs, rows.ids, 3))
    victim = Victim(ctx.fresh(splits.train).module, "graph").eval()
    assert torch.allclose(victim(hard), victim(soft), atol=1e-5)
    assert torch.equal(hard.x.sum(1), torch.ones(len(hard.x)))  # still one-hot
    assert set(hard.x.unique().tolist()) == {0.0, 1.0}


def test_features_stay_in_the_training_range() -> None:
    net = Generator(3, 8, "range")
    net.low.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    net.high.copy_(torch.tensor([1.0, 0.5, 2.0]))
    rows = net.rows(100 * torch.randn(50, 4, 3))
    assert bool((rows >= net.low).all())
    assert bool((rows <= net.high).all())


def test_degree_features_are_counted_again(splits: Splits) -> None:
    graphs = with_degrees(splits.train.inputs)
    train = replace(splits.train, inputs=graphs)
    trigger = GTA(size=4).make_trigger(train, context())
    assert trigger.features == "degree"
    assert are_degrees(trigger.apply(graphs, train.ids, seed=0, target=train.y))


def test_model_mode_trains_on_the_last_trigger(splits: Splits) -> None:
    ctx = context(epochs=12)
    attack = GTA(rate=0.2, target=0, rounds=3, steps=2)
    poisoned = attack.poison(splits, ctx)
    assert isinstance(poisoned.hook, BiLevel)
    ctx.fit(poisoned.splits.train, [poisoned.hook])
    assert len(poisoned.hook.losses) == 3 * 2
    settled = attack.settle(splits, poisoned, ctx)
    assert settled.trigger is poisoned.hook.trigger
    again = settled.trigger.apply(
        splits.train.take(settled.index).inputs,
        splits.train.ids[settled.index],
        seed=ctx.key("stamp-train"),
        target=settled.index * 0,
    )
    assert torch.equal(again.x, settled.splits.train.take(settled.index).inputs.x)


def test_doubts_are_about_the_trigger_that_was_learnt(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    attack, ctx = GTA(rate=0.2, target=0, rounds=2, steps=1), context(epochs=2)
    poisoned = attack.poison(splits, ctx)
    ctx.fit(poisoned.splits.train, [poisoned.hook] if poisoned.hook else [])
    before, picked = ("the trigger left 7 of 9 training inputs as they were",), ("only 9 could be poisoned",)
    monkeypatch.setattr(GeneratedSubgraph, "doubts", lambda *_, **__: ("the learnt one",))
    settled = attack.settle(splits, replace(poisoned, picked=picked, doubts=(*picked, *before)), ctx)
    assert settled.doubts[:2] == (*picked, "the learnt one") and before[0] not in settled.doubts


@pytest.mark.parametrize(
    "spec", [{"name": "gta", "mode": "poison"}, {"name": "gta", "mode": "model"}, {"name": "dpsba"}], ids=str
)
def test_a_generator_without_poison_learns_nothing_and_says_so(splits: Splits, spec: dict[str, str]) -> None:
    made = build("attack", {**spec, "rate": 0.0, "size": 4}).poison(splits, toys.context("graph"))
    assert made.doubts[0].endswith("and the trigger is as it began, for it learns on what it poisons")
    assert made.hook is None
    assert all(torch.isfinite(tensor).all() for tensor in made.trigger.state.values())


def test_poison_mode_hands_out_data_only(splits: Splits) -> None:
    poisoned = GTA(rate=0.1, target=0, mode="poison", rounds=2, steps=2).poison(splits, context())
    assert poisoned.hook is None
    assert isinstance(poisoned.trigger, GeneratedSubgraph)
    assert bool((poisoned.splits.train.y[poisoned.index] == 0).all())


@pytest.mark.slow
def test_aids_reaches_its_bar(needs_data: object) -> None:
    """One seed of plans/aids.yaml, shortened: the attack works and a clean model does not see the trigger as the target."""
    from ostiary.evaluate import Outputs, evaluate

    splits = build("dataset", {"name": "tu", "set": "AIDS"}).load(0)
    arch = build("victim", "gin")
    ctx = Context(seed=0, architecture=arch, trainer=Trainer(**{**arch.recipe, "epochs": 39}))
    attack = GTA(target=0, size=3)
    poisoned = attack.poison(splits, ctx)
    victim = ctx.fit(poisoned.splits.train, [poisoned.hook] if poisoned.hook else [])
    assert isinstance(poisoned.hook, BiLevel)
    grad = poisoned.hook.net.edge_head.weight.grad
    assert grad is not None
    assert float(grad.abs().max()) > 0
    poisoned = attack.settle(splits, poisoned, ctx)
    control = Outputs.of(ctx.fit(splits.train), poisoned)
    metrics = evaluate(Outputs.of(victim, poisoned), poisoned, control)
    assert metrics["asr"]["value"] >= 0.9
    assert metrics["cad"]["value"] <= 0.03
