"""The best edge flips of a GCN: products of a few columns per node against a dense adjacency matrix with autograd."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from common import cpu_seconds, inside, one_thread, report
from ostiary.modality.graphs import Graphs
from ostiary.models.edge_gradient import top_flips
from ostiary.models.graph_layers import Conv, GCNConv
from ostiary.models.graph_nets import GraphNet
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import generator

SIZES, DENSE = (50, 500, 5_000, 50_000), 5_000  # nodes of the one graph; up to where a dense matrix is tried
MANY, SMALL, SOME = 1_000, 30, 100  # graphs, their nodes, and how many of them the dense side does
FEATURES, WIDTHS, DEGREE, FLIPS = 16, (16, 8), 4, 10


def network() -> Victim:
    torch.manual_seed(0)
    convs: list[Conv] = [GCNConv(a, b) for a, b in zip((FEATURES, *WIDTHS), WIDTHS, strict=False)]
    return Victim(GraphNet(convs, WIDTHS[-1], 2, "max", 0.0, False), "graph").eval()


def random_graphs(n_graphs: int, n: int) -> Graphs:
    """Each of n nodes and about n * DEGREE / 2 undirected edges."""
    rng = generator(0, n)
    pairs = torch.randint(n, (2, n_graphs * n * DEGREE // 2), generator=rng)
    pairs += n * torch.arange(n_graphs).repeat_interleave(n * DEGREE // 2)
    pairs = pairs[:, pairs[0] != pairs[1]]
    edges = torch.cat([pairs, pairs.flip(0)], 1).unique(dim=1)
    return Graphs.build(torch.randn(n_graphs * n, FEATURES, generator=rng), edges, torch.full((n_graphs,), n))


def loss(logits: Tensor, features: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64), reduction="sum")


def ours(victim: Victim, graphs: Graphs) -> Tensor:
    return top_flips(victim, graphs, loss, FLIPS).scores


def dense(victim: Victim, graphs: Graphs) -> Tensor:
    """One graph after the other, each with an N x N matrix that autograd differentiates by."""
    found, net = [], inside(victim, GraphNet)
    with evaluating(victim), without_gradients(victim):
        for i in range(len(graphs)):
            start, end = graphs.node_ptr[i : i + 2].tolist()
            edges = graphs.edge_index[:, graphs.edge_ptr[i] : graphs.edge_ptr[i + 1]] - start
            found.append(dense_scores(net, graphs.x[start:end], edges))
    return torch.stack(found)


def dense_scores(net: GraphNet, x: Tensor, edges: Tensor) -> Tensor:
    a = x.new_zeros(len(x), len(x)).index_put_((edges[1], edges[0]), x.new_ones(())).requires_grad_()
    scale = (a.sum(1) + 1).rsqrt()[:, None]
    for conv in net.convs:
        assert isinstance(conv, GCNConv)
        h = scale * (x @ conv.lin.weight.T)
        x = (scale * (a @ h + h) + conv.bias).relu()
    g = x.amax(0)[None]
    slope = torch.autograd.grad(loss(net.head(g), g), a)[0]
    score = (2 * a.detach() - 1) * (slope + slope.T)
    never = torch.ones_like(a, dtype=torch.bool).tril()
    return score.masked_fill_(never, -torch.inf).flatten().topk(FLIPS).values


def peak() -> float:
    """MB that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(side: str, n: int) -> None:
    """In a process of its own: CPU seconds, MB above what was held before, MB in all."""
    function, victim, graphs = {"ours": ours, "dense": dense}[side], network(), random_graphs(1, n)
    function(victim, random_graphs(1, 20))  # first calls load kernels
    before, start = peak(), time.process_time()
    function(victim, graphs)
    seconds = time.process_time() - start
    print(seconds, peak() - before, peak())


def measured(side: str, n: int) -> tuple[float, float, float]:
    out = subprocess.run([sys.executable, __file__, side, str(n)], check=True, capture_output=True, text=True).stdout
    seconds, extra, whole = map(float, out.split())
    return seconds, extra, whole


def large(victim: Victim) -> tuple[float, float]:
    """The ratio at the largest size that a dense matrix was tried at, and the MB of the largest graph of all."""
    print(f"One graph of N nodes, mean degree {DEGREE}, GCN {WIDTHS}, max pooling, the {FLIPS} best flips of all pairs;")
    print("CPU seconds on one thread, and the MB a process of its own takes above what it held before\n")
    print(f"{'N':>7} {'dense s':>9} {'MB':>7} {'ours s':>9} {'MB':>7} {'in all':>7} {'time ratio':>11} {'differ by':>10}")
    # all of them first: a child's peak counts what its parent held when it was started
    children = {(side, n): measured(side, n) for n in SIZES for side in ("ours", "dense") if side == "ours" or n <= DENSE}
    ratio = 0.0
    for n in SIZES:
        seconds, extra, whole = children["ours", n]
        if n > DENSE:
            print(f"{n:7} {'':9} {'':7} {seconds:9.4f} {extra:7.0f} {whole:7.0f}", flush=True)
            continue
        graphs = random_graphs(1, n)
        there, here = dense(victim, graphs), ours(victim, graphs)
        error = float((there - here).abs().max() / there.abs().max())
        theirs, own = cpu_seconds(partial(dense, victim, graphs), partial(ours, victim, graphs), repeats=5)
        ratio, memory = theirs / own, children["dense", n][1]
        print(f"{n:7} {theirs:9.4f} {memory:7.0f} {own:9.4f} {extra:7.0f} {whole:7.0f} {ratio:11.1f} {error:10.1e}", flush=True)
    return ratio, max(c[2] for (side, _), c in children.items() if side == "ours")


def small(victim: Victim) -> float:
    graphs = random_graphs(MANY, SMALL)
    some = graphs.take(torch.arange(SOME))
    error = float((dense(victim, some) - ours(victim, graphs)[:SOME]).abs().max())
    loop, batch = cpu_seconds(partial(dense, victim, some), partial(ours, victim, graphs), repeats=5)
    loop, batch = loop / SOME * 1e3, batch / MANY * 1e3
    print(f"\n{MANY} graphs of {SMALL} nodes, CPU milliseconds per graph: dense {loop:.3f} (from {SOME}), ours {batch:.4f},")
    print(f"{loop / batch:.1f} times; scores differ by {error:.1e}\n")
    return loop / batch


def main() -> None:
    one_thread()
    if len(sys.argv) == 3:
        return measure(sys.argv[1], int(sys.argv[2]))
    victim = network()
    one, whole = large(victim)
    many = small(victim)
    print(f"edge-gradient-memory MB {whole:.0f} goal 2000")
    report("edge-gradient-small", many, 9)
    report("edge-gradient", one, 12)
    return None


if __name__ == "__main__":
    main()
