"""GTA: a generator step over all poisoned graphs as one batch against graph by graph, and what the published schedule takes."""

from __future__ import annotations

import sys
import time
from functools import partial

import torch
import torch.nn.functional as F

from common import cpu_seconds, one_thread, report, tu
from ostiary.attacks.bilevel import BiLevel
from ostiary.attacks.gta import GTA
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import derive
from ostiary.training.trainer import Trainer

STEPS = 10  # generator steps timed as batches; graph by graph one is slow enough
ROUND = 1  # a later round than the first, which may begin otherwise
EPOCHS = 20  # of the victim: clean ones first, then as many in each round
THEIRS = 1400  # CPU seconds of the authors' code, extrapolated from single steps: 1,000 graphs, GCN 64-16, 100 poisoned


def bilevel(attack: GTA, splits: Splits, ctx: Context) -> BiLevel:
    hook = attack.poison(splits, ctx).hook
    assert isinstance(hook, BiLevel)
    return hook


def one_by_one(hook: BiLevel, singles: list[Dataset], victim: Victim) -> None:
    """The step of `BiLevel.update`, its gradient gathered from single graphs."""
    hook.optimizer.zero_grad()
    with evaluating(victim), without_gradients(victim):
        for rows, goal in zip(singles, hook.goal, strict=True):
            chosen = hook.trigger.positions(rows.inputs, rows.ids, derive(hook.seed, ROUND // 4, 0))
            loss = F.cross_entropy(victim(hook.trigger.soft(hook.net, rows.inputs, chosen)), goal[None])
            (loss / len(singles)).backward()
    hook.optimizer.step()


def gradient_difference(attack: GTA, splits: Splits, victim: Victim, ctx: Context) -> float:
    """The largest difference between the two gradients of a first step, relative to the largest entry of each weight's."""
    found = []
    for batched in (True, False):
        hook = bilevel(attack.replace(steps=1), splits, ctx)
        if batched:
            hook.update(victim, ROUND)
        else:
            one_by_one(hook, one_each(hook.rows), victim)
        found.append([p.grad for p in hook.net.parameters() if p.grad is not None])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True))


def one_each(data: Dataset) -> list[Dataset]:
    return [data.take(at) for at in torch.arange(len(data)).split(1)]


def compare(splits: Splits, victim: Victim, ctx: Context) -> float:
    """The ratio at the lowest of the poisoning rates."""
    print("One generator step, CPU milliseconds on one thread\n")
    print(f"{'poisoned graphs':>15} {'one by one':>11} {'one batch':>10} {'ratio':>6} {'gradients differ by':>20}")
    ratios = []
    for rate in (0.05, 0.1):
        attack = GTA(rate=rate, steps=STEPS)
        difference = gradient_difference(attack, splits, victim, ctx)
        hooks = [bilevel(attack, splits, ctx) for _ in range(2)]
        singles = one_each(hooks[0].rows)
        loop, batch = cpu_seconds(partial(one_by_one, hooks[0], singles, victim), partial(hooks[1].update, victim, ROUND))
        batch /= STEPS
        ratios.append(loop / batch)
        print(f"{len(singles):15} {loop * 1e3:11.1f} {batch * 1e3:10.2f} {loop / batch:6.1f} {difference:20.1e}")
    return min(ratios)


def schedule(splits: Splits, ctx: Context) -> float:
    """CPU seconds of attack and training together."""
    attack = GTA()
    trainer = Trainer(epochs=EPOCHS * (attack.rounds + 1), batch_size=64)
    ctx = Context(ctx.seed, ctx.device, ctx.architecture, trainer)
    start = time.process_time()
    poisoned = attack.poison(splits, ctx)
    assert poisoned.hook is not None
    victim = ctx.fit(poisoned.splits.train, [poisoned.hook])
    poisoned = attack.settle(splits, poisoned, ctx)
    seconds = time.process_time() - start
    test, goal = splits.test, poisoned.triggered
    accuracy = float((victim.predict(test.inputs).argmax(1) == test.y).double().mean())
    success = float((victim.predict(goal.inputs).argmax(1) == goal.y).double().mean())
    print(f"\nThe published schedule: after {EPOCHS} clean epochs {attack.rounds} rounds of {attack.steps} generator steps and")
    print(f"{EPOCHS} epochs each; {len(splits.train)} graphs, {len(poisoned.index)} of them poisoned, batches of 64")
    print(f"{seconds:.1f} CPU seconds; accuracy {accuracy:.1%}, attack success {success:.1%}")
    print(f"The authors' code: about {THEIRS} CPU seconds, extrapolated from single steps of its own smaller setting\n")
    return seconds


def main() -> None:
    one_thread()
    splits, name = tu("AIDS")
    ctx = Context(0, architecture=build("victim", {"name": "gin"}))
    print(f"{name}, GIN, target 0")
    victim = Trainer(epochs=3).fit(ctx.fresh(splits.train), splits.train, 0)
    ratio = compare(splits, victim, ctx)
    sys.stdout.flush()
    seconds = schedule(splits, ctx)
    print(f"gta-schedule seconds {seconds:.1f} goal 60")
    report("gta", ratio, 10)


if __name__ == "__main__":
    main()
