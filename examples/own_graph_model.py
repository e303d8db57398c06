"""A model from outside: poison it here so that there is something to find, then scan, purify and judge it.

    python examples/own_graph_model.py

Everything a defender uses is in `defend`; the rest plays attacker and judge. Takes about a minute on one core.
"""

from __future__ import annotations

import torch
from torch_geometric.nn import GINConv, global_add_pool

import ostiary
from ostiary.attacks.sub_ba import SubBA
from ostiary.data.dataset import Splits
from ostiary.evaluate import Outputs, evaluate


class Net(torch.nn.Module):
    """A user's own network with argument names of its own."""

    def __init__(self, width: int, classes: int, hidden: int = 64) -> None:
        super().__init__()
        sizes = [width, hidden, hidden]
        self.layers = torch.nn.ModuleList(GINConv(self.block(d, hidden)) for d in sizes)
        self.out = torch.nn.Linear(hidden, classes)

    @staticmethod
    def block(d: int, h: int) -> torch.nn.Module:
        linear = torch.nn.Linear
        return torch.nn.Sequential(linear(d, h), torch.nn.BatchNorm1d(h), torch.nn.ReLU(), linear(h, h))

    def forward(self, *, atoms: torch.Tensor, bonds: torch.Tensor, molecule: torch.Tensor) -> torch.Tensor:
        h = atoms
        for layer in self.layers:
            h = layer(h, bonds).relu()
        logits: torch.Tensor = self.out(global_add_pool(h, molecule) / 10)
        return logits


def wrap(splits: Splits) -> ostiary.Victim:
    data = splits.train.describe()
    net = Net(int(data["width"]), int(data["classes"]))
    return ostiary.Victim(net, "graph", forward=lambda m, b: m(atoms=b.x, bonds=b.edge_index, molecule=b.batch))


def defend(victim: ostiary.Victim, splits: Splits) -> ostiary.Victim:
    evidence = ostiary.Evidence(victim=victim, clean=splits.clean)
    cleaned = ostiary.build("purifier", "gcleaner").purify(evidence, ostiary.Context(seed=0))
    print("recovered triggers lead clean graphs to each class at rate", cleaned.notes["recovered rate"])
    return cleaned


def main(epochs: int = 60) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of the network's first weights
    splits = ostiary.build("dataset", "solubility").load(seed=0)
    poisoned = SubBA(target=2, size=4, density=1.0).poison(splits, ostiary.Context(seed=0))
    trainer = ostiary.Trainer(epochs=epochs)
    victim = trainer.fit(wrap(splits), poisoned.splits.train, seed=0)
    control = trainer.fit(wrap(splits), splits.train, seed=0)
    cleaned = defend(victim, splits)
    reference = Outputs.of(control, poisoned)
    found = {}
    for name, model in (("before", victim), ("after", cleaned)):
        metrics = evaluate(Outputs.of(model, poisoned), poisoned, reference)
        found[name] = {k: float(metrics[k]["value"]) for k in ("acc", "asr", "natural", "ra")}
        print(name, {k: round(100 * v, 1) for k, v in found[name].items()})
    return found


if __name__ == "__main__":
    main()
