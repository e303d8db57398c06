"""How visible a trigger is: what it changes, and whether an anomaly detector fitted on clean inputs sees it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.modality.base import Inputs, Modality
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes, egos

KNOWN = 2000  # clean inputs that the anomaly detector is fitted on; a tree of it sees 256


def stealth(modality: Modality, clean: Inputs, before: Inputs, after: Inputs, limit: int = 200) -> dict[str, float]:
    """Means over `limit` inputs, from all over the set, of the modality's distances; graphs: change of degree, density and
    clustering; nodes: the same of their neighbourhoods, and of how alike their neighbours are; images: SSIM. `anomaly_auc`:
    AUROC of an isolation forest on simple statistics, fitted on KNOWN of `clean`."""
    some, known = spaced(modality.count(before), limit), spaced(modality.count(clean), KNOWN)
    before, after, clean = modality.take(before, some), modality.take(after, some), modality.take(clean, known)
    found = {k: float(v.mean()) for k, v in modality.difference(before, after).items()}
    if isinstance(before, Graphs):
        a, b = graph_statistics(before), graph_statistics(after)
        for i, name in enumerate(("degree", "density", "clustering")):
            found[f"{name}_change"] = float((b[:, i] - a[:, i]).mean())
        rest = graph_statistics(clean)
    elif isinstance(before, Nodes):
        a, b, rest = (node_statistics(x) for x in (before, after, clean))
        for i, name in enumerate(("degree", "density", "clustering")):
            found[f"{name}_change"] = float((b[:, i] - a[:, i]).mean())
        found["likeness_change"] = float((b[:, -2] - a[:, -2]).mean())
    else:
        found["ssim"] = float(ssim(before, after).mean())
        a, b, rest = (image_statistics(x) for x in (before, after, clean))
    found["anomaly_auc"] = anomaly_auc(rest, a, b)
    return found


def spaced(n: int, most: int) -> Tensor:
    """At most so many of n rows, from all over them: int64."""
    return torch.linspace(0, n - 1, min(most, n)).long()


def graph_statistics(graphs: Graphs) -> Tensor:
    """Per graph: mean degree, density, mean clustering, largest degree, nodes: float64 [G, 5]."""
    n, e = graphs.n_nodes.double(), graphs.n_edges.double()
    degree = graphs.in_degree.double()
    source, target = graphs.edge_index
    size = max(1, len(graphs.x))
    keys = target * size + source  # sorted, by construction of the store
    triangles = torch.zeros(size, dtype=torch.float64)
    # two-paths source <- target <- k, one neighbour rank k at a time; closed where (source, k) is an edge
    start, left = graphs.adjacency.offsets[:-1], torch.arange(len(target))
    for k in range(int(graphs.in_degree.max()) if len(graphs.x) else 0):
        left = left[graphs.in_degree[target[left]] > k]
        near = source[left]
        wanted = near * size + source[start[target[left]] + k]
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        triangles.index_add_(0, near, (keys[at] == wanted).double())
    clustering = triangles / (degree * (degree - 1)).clamp(min=1)
    mean = torch.zeros(len(graphs), dtype=torch.float64).index_add_(0, graphs.batch, clustering) / n
    most = torch.zeros(len(graphs), dtype=torch.float64).scatter_reduce(0, graphs.batch, degree, "amax")
    return torch.stack([e / n, e / (n * (n - 1)).clamp(min=1), mean, most, n], 1)


def node_statistics(nodes: Nodes) -> Tensor:
    """Per root: those of its neighbourhood (two steps) as a graph; cosine of its features and those of its neighbours,
    mean and least (1 where there are none): float64 [n, 7]."""
    around, here, steps = egos(nodes)
    ends = around.edge_index[:, steps[around.edge_index[0]] + 1 == steps[around.edge_index[1]]]
    ends = ends[:, steps[ends[0]] == 0]  # from the root outwards
    x = F.normalize(nodes.x.double(), dim=1)
    alike = (x[here[ends[0]]] * x[here[ends[1]]]).sum(1)
    root = around.batch[ends[0]]
    total = torch.zeros(len(nodes), dtype=torch.float64).index_add_(0, root, alike)
    n = torch.bincount(root, minlength=len(nodes))
    mean = torch.where(n > 0, total / n.clamp(min=1), torch.ones_like(total))
    least = torch.ones(len(nodes), dtype=torch.float64).scatter_reduce(0, root, alike, "amin")
    return torch.cat([graph_statistics(around), torch.stack([mean, least], 1)], 1)


def image_statistics(images: Tensor) -> Tensor:
    """Per image: mean, spread, total variation, high-frequency energy and extremes by channel mean: float64 [n, 6]."""
    grey = images.double().mean(1)
    dx, dy = grey.diff(dim=2).abs().mean((1, 2)), grey.diff(dim=1).abs().mean((1, 2))
    rough = (grey - F.avg_pool2d(grey[:, None], 3, 1, 1, count_include_pad=False)[:, 0]).square().mean((1, 2))
    return torch.stack([grey.mean((1, 2)), grey.std((1, 2)), dx, dy, rough, grey.amax((1, 2))], 1)


def anomaly_auc(clean: Tensor, before: Tensor, after: Tensor) -> float:
    """AUROC of an isolation forest (Liu et al., ICDM 2008; 200 trees, seed 0) that saw `clean` only: 0.5 = unseen."""
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import roc_auc_score

    forest = IsolationForest(n_estimators=200, random_state=0).fit(clean.numpy())
    scores = -forest.score_samples(torch.cat([before, after]).numpy())
    return float(roc_auc_score([0] * len(before) + [1] * len(after), scores))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity per image, Gaussian window 11 (or the image), sigma 1.5. Wang et al., TIP 2004."""
    size = min(11, a.shape[-1] - 1 + a.shape[-1] % 2, a.shape[-2] - 1 + a.shape[-2] % 2)
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = (line[:, None] * line[None, :] / line.sum() ** 2).expand(a.shape[1], 1, size, size)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=x.shape[1])

    a, b = a.double(), b.double()
    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))).mean((1, 2, 3))
