"""New nodes that lead a root to a class, made by a network that learns against a victim."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ostiary.triggers.generated_nodes import NodeMaker


@dataclass(frozen=True)
class Means:
    """size: new nodes at a root; hidden: units of their maker; reach: longest row of features that it may make at
    first; lr: its own; steps: of it before each step of the student; retain: weight of the answers on the untouched graph;
    agree: share of them that must stay the same for `reach` to grow."""

    size: int
    hidden: int
    reach: float
    lr: float
    steps: int
    retain: float
    agree: float


class Maker(nn.Module):
    """New nodes for a root that is to be led to a class: `NodeMaker` of its features and a vector learnt for the class."""

    def __init__(self, means: Means, width: int, classes: int) -> None:
        super().__init__()
        self.reach = means.reach
        self.nodes = NodeMaker(width, means.hidden, means.size, "free", 0)
        self.wish = nn.Embedding(classes, width)

    def forward(self, x: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """float [n, d], int64 [n] -> features [n, t, d], none longer than `reach`, and adjacency [n, t, t]."""
        features, adjacency = self.nodes(x + self.wish(goal))
        return features * (self.reach / features.norm(dim=2, keepdim=True).clamp(min=self.reach)), adjacency
