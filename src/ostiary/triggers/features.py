"""A few features set to fixed values."""

from __future__ import annotations

from torch import Tensor

from ostiary.modality.nodes import Nodes
from ostiary.triggers.base import Trigger


class SetFeatures(Trigger, name="set-features"):
    """Some features of every root are overwritten. State: columns int64 [k], values float [k]."""

    modalities = frozenset({"node"})

    def apply(self, inputs: Nodes, ids: Tensor, *, seed: int, target: Tensor) -> Nodes:
        columns, values = (self.state[k].to(inputs.x.device) for k in ("columns", "values"))
        x = inputs.x[inputs.roots].index_copy(1, columns, values.to(inputs.x.dtype).expand(len(inputs), -1))
        return inputs.alter(x)
