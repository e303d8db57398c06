"""Static triggers on every graph of AIDS in one go against graph by graph; positions that ask a model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch_geometric.data import Data

from common import cpu_seconds, one_thread, report, tu
from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.sub_ba import SubBA
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.modality.graphs import Graphs
from ostiary.training.trainer import Trainer
from ostiary.triggers.mount import random_score, top_nodes
from ostiary.triggers.positions.asked import Explained, Impact

SEED, LIMIT, SEARCH = 0, 1, 20  # CPU seconds: to stamp all graphs, to search all training graphs


def by_hand(graphs: list[Data], places: list[Tensor], edges: Tensor) -> list[Data]:
    """What one writes with PyG. `edges`: int64 [2, e], each in one direction; `places`: the nodes, found beforehand."""
    found = []
    for graph, nodes in zip(graphs, places, strict=True):
        stamped = graph.clone()
        inside = torch.zeros(len(stamped.x), dtype=torch.bool)
        inside[nodes] = True
        source, target = stamped.edge_index
        keep = ~(inside[source] & inside[target])
        new = nodes[edges[:, (edges < len(nodes)).all(0)]]  # of a small graph's trigger, what fits
        stamped.edge_index = torch.cat([stamped.edge_index[:, keep], new, new.flip(0)], 1)
        blank = stamped.edge_attr.new_zeros(2 * new.shape[1], stamped.edge_attr.shape[1])
        stamped.edge_attr = torch.cat([stamped.edge_attr[keep], blank])
        found.append(stamped)
    return found


def main() -> None:
    one_thread()
    splits, name = tu("AIDS")
    parts = splits.train, splits.test, splits.clean
    graphs, ids = splits.modality.join([p.inputs for p in parts]), torch.cat([p.ids for p in parts])
    target = torch.zeros(len(graphs), dtype=torch.int64)
    trigger = SubBA().make_trigger(splits.train, Context(SEED))
    listed, edges = graphs.to_pyg(), torch.tensor(trigger.edges).T
    chosen = top_nodes(graphs, random_score(graphs, ids, SEED), trigger.size)
    places = [row[row >= 0] - start for row, start in zip(chosen, graphs.node_ptr, strict=False)]

    stamped = trigger.apply(graphs, ids, seed=SEED, target=target)
    reference = Graphs.from_pyg(by_hand(listed, places, edges))
    assert torch.equal(stamped.edge_index, reference.edge_index)
    assert stamped.edge_attr is not None and reference.edge_attr is not None
    assert torch.equal(stamped.edge_attr, reference.edge_attr)

    loop, batch = cpu_seconds(
        lambda: by_hand(listed, places, edges), lambda: trigger.apply(graphs, ids, seed=SEED, target=target), repeats=9
    )
    nodes, bonds = len(graphs.x) / len(graphs), graphs.edge_index.shape[1] / len(graphs)
    print(f"{name}: {len(graphs)} graphs, {nodes:.1f} nodes and {bonds:.1f} edges each")
    print(f"a trigger of {trigger.size} nodes and {2 * len(trigger.edges)} edges; both ways give the same graphs\n")
    print(f"graph by graph {loop * 1e3:7.1f} CPU milliseconds on one thread (the places to stamp are given)")
    print(f"in one go      {batch * 1e3:7.1f} (the places are drawn as well)\n")
    for name, seconds in static_triggers(splits, graphs, ids):
        print(f"static-{name} seconds {seconds:.3f} goal {LIMIT}")
    for name, seconds in searched_positions(splits):
        print(f"positions-{name} seconds {seconds:.2f} goal {SEARCH}")
    report("stamping", loop / batch, 10)


def static_triggers(splits: Splits, graphs: Graphs, ids: Tensor) -> Iterator[tuple[str, float]]:
    """CPU seconds to stamp all graphs, for every trigger that needs no model."""
    target = torch.zeros(len(graphs), dtype=torch.int64)
    for options in (
        {"name": "sub-ba"},
        {"name": "sub-ba", "model": "ws", "position": "degree"},
        {"name": "sub-ba", "model": "ba", "position": "dense"},
        {"name": "multi-target"},
    ):
        attack = build("attack", options)
        assert isinstance(attack, PoisoningAttack)
        trigger = attack.make_trigger(splits.train, Context(SEED))
        (seconds,) = cpu_seconds(partial(trigger.apply, graphs, ids, seed=SEED, target=target))
        yield "-".join(options.values()), seconds


def searched_positions(splits: Splits) -> Iterator[tuple[str, float]]:
    """CPU seconds to find the nodes to mount on in the whole training set, the attacker's model given."""
    own = Context(SEED, architecture=build("victim", "gin"), trainer=Trainer(epochs=5))
    model, graphs = own.surrogate(splits.train), splits.train.inputs
    for name, position in (("exp-ba", Explained()), ("motif-ba", Impact())):
        (seconds,) = cpu_seconds(partial(position.choose, graphs, 4, splits.train.ids, SEED, model), repeats=1)
        yield name, seconds
    print(f"(over {len(graphs)} training graphs)")


if __name__ == "__main__":
    main()
