"""A model file as a user would write it, for the victim `file`: odd argument names, a `make` and a `forward`."""

import torch
from torch import nn
from torch_geometric.nn import GINConv


class Net(nn.Module):
    def __init__(self, width: int, classes: int, hidden: int) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.conv = GINConv(inner)
        self.out = nn.Linear(hidden, classes)

    def forward(self, atoms: torch.Tensor, bonds: torch.Tensor, molecule: torch.Tensor, n: int) -> torch.Tensor:
        h = self.conv(atoms, bonds).relu()
        return self.out(h.new_zeros(n, h.shape[1]).index_add(0, molecule, h))


def make(width: int, classes: int, hidden: int = 16) -> Net:
    return Net(width, classes, hidden)


def forward(module: nn.Module, batch) -> torch.Tensor:
    return module(batch.x, batch.edge_index, batch.batch, len(batch))
