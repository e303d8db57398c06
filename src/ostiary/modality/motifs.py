"""How often the eight connected motifs on three and four nodes occur in each of many graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.modality.graphs import Graphs

MOTIFS: dict[str, tuple[tuple[int, int], ...]] = {  # names: Zheng et al., Motif-Backdoor, 2023
    "M31": ((0, 1), (0, 2)),  # path
    "M32": ((0, 1), (0, 2), (1, 2)),  # triangle
    "M41": ((0, 1), (1, 2), (2, 3)),  # path
    "M42": ((0, 1), (0, 2), (0, 3)),  # star
    "M43": ((0, 1), (1, 2), (2, 3), (0, 3)),  # cycle
    "M44": ((0, 1), (1, 2), (2, 3), (0, 2)),  # triangle with a tail
    "M45": ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3)),  # two triangles
    "M46": ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)),  # clique
}
CELLS = 2**23  # entries of a padded chunk


def count_motifs(graphs: Graphs) -> Tensor:
    """Occurrences as subgraphs, induced or not, in the order of MOTIFS: float64 [G, 8]. Work grows with edges times
    nodes of a graph; memory is bounded."""
    found = torch.zeros(len(graphs), len(MOTIFS), dtype=torch.float64)
    order, at = graphs.n_nodes.argsort(stable=True), 0
    while at < len(order):
        rest = graphs.n_nodes[order[at:]]
        cost = rest * rest * torch.arange(1, len(rest) + 1)  # of a chunk that ends here, padded to its last graph
        n = max(1, int((cost <= CELLS).sum()))
        rows = order[at : at + n]
        found[rows] = _counted(graphs.take(rows))
        at += n
    return found


def _counted(graphs: Graphs) -> Tensor:
    most, edges = int(graphs.n_nodes.max()), graphs.edge_index
    a = torch.zeros(len(graphs), most, most)
    local = edges - graphs.node_ptr[graphs.edge_batch]
    a[graphs.edge_batch, local[0], local[1]] = 1.0
    a.diagonal(dim1=1, dim2=2).zero_()
    a = torch.maximum(a, a.transpose(1, 2))
    degree = a.sum(2).double()
    b, u, v = a.triu().nonzero(as_tuple=True)
    shared, cliques = _around_edges(a, b, u, v)  # per edge: common neighbours; per graph: 4-cliques

    def per_graph(values: Tensor) -> Tensor:
        return torch.zeros(len(graphs), dtype=torch.float64).index_add_(0, b, values)

    du, dv = degree[b, u], degree[b, v]
    triangles = per_graph(shared) / 3
    at_node = torch.zeros(len(graphs) * most, dtype=torch.float64)
    for end in (u, v):
        at_node.index_add_(0, b * most + end, shared / 2)  # each triangle of a node lies on two of its edges
    two_paths = torch.bmm(a, a).double()
    pairs = two_paths * (two_paths - 1) / 2
    pairs.diagonal(dim1=1, dim2=2).zero_()
    tail = (at_node.view(len(graphs), most) * (degree - 2)).sum(1)
    wedge = (degree * (degree - 1) / 2).sum(1)
    star = (degree * (degree - 1) * (degree - 2) / 6).sum(1)
    path = per_graph((du - 1) * (dv - 1)) - 3 * triangles
    cycle = pairs.sum((1, 2)) / 4
    return torch.stack([wedge, triangles, path, star, cycle, tail, per_graph(shared * (shared - 1) / 2), cliques], 1)


def _around_edges(a: Tensor, b: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(common neighbours of each edge u < v, float64 [E]; 4-cliques of each graph, float64 [G])."""
    shared, cliques = torch.zeros(len(b), dtype=torch.float64), torch.zeros(len(a), dtype=torch.float64)
    later = torch.arange(a.shape[1])
    for part in torch.arange(len(b)).split(max(1, CELLS // a.shape[1])):
        graph, first, second = b[part], u[part], v[part]
        common = a[graph, first] * a[graph, second]
        shared[part] = common.sum(1).double()
        edge, third = (common * (later > second[:, None])).nonzero(as_tuple=True)  # triangles first < second < third
        for some in torch.arange(len(edge)).split(max(1, CELLS // a.shape[1])):
            fourth = (common[edge[some]] * a[graph[edge[some]], third[some]] * (later > third[some][:, None])).sum(1)
            cliques.index_add_(0, graph[edge[some]], fourth.double())
    return shared, cliques
