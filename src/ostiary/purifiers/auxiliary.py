"""Another data set in place of clean samples."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, Positive
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.data.source import DataSource
from ostiary.errors import BadSpec, InvalidInput
from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs, are_degrees, degree_features
from ostiary.models.edit import width_of
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier

NO_GRAPHS = "purifier 'auxiliary' works on graphs, and dataset '{}' has none; give another"


class Auxiliary(Purifier, name="auxiliary"):
    """Runs any purifier on graphs of another, public data set, labelled by the victim itself.

    Source: Zhang et al., 2024, arXiv:2410.01272, Table 5 (NCI1 and COLLAB for AIDS). The defender holds the model and not
    one sample of its task. `n` graphs of `dataset` are drawn, as evenly over the classes the victim says as they allow
    (from 20 times as many; a purifier would learn to say one class only); their labels are what it says, since their own
    mean nothing here. n 60: 3 % of AIDS, as in the paper.

    Features are brought to the victim's `width` (0: that of its first matrix of weights). Where `kinds` names the victim's
    columns, as its maker documents them, and the data set names its own, columns of one name correspond and nodes of other
    kinds have no feature; else degrees are counted anew, capped at the last column as everywhere, and columns of another
    meaning cut off or zeros added at the end (the paper says "matching dimensions").
    """

    modalities = frozenset({"graph"})
    needs = frozenset({"victim"})
    purifier: Purifier
    dataset: DataSource
    n: Positive = 60
    width: NonNegative = 0
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset.modalities and "graph" not in self.dataset.modalities:
            raise BadSpec(NO_GRAPHS.format(self.dataset.name))

    def needed(self) -> frozenset[str]:
        return (self.purifier.needed() | self.needs) - {"clean"}

    def rebuild(self, victim: Victim) -> Victim:
        return self.purifier.rebuild(victim)

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        data = self.drawn(evidence.victim, ctx)
        cleaned = self.purifier.purify(evidence.but(clean=data), ctx.within(self.purifier.name))
        cleaned.notes["auxiliary graphs"] = {name: int((data.y == c).sum()) for c, name in enumerate(data.classes)}
        return cleaned

    def drawn(self, victim: Victim, ctx: Context) -> Dataset:
        """The auxiliary graphs, with the victim's features and labels."""
        data, _ = self.dataset.read()
        if not isinstance(data.inputs, Graphs):
            raise InvalidInput(NO_GRAPHS.format(self.dataset.name))
        data = data.take(torch.randperm(len(data), generator=ctx.rng("auxiliary"))[: 20 * self.n])
        graphs, width = data.inputs, self.width or width_of(victim)
        anew = are_degrees(graphs) and not (self.kinds and data.kinds)
        x = degree_features(graphs.edge_index, len(graphs.x), width) if anew else self.fitted(graphs.x, data.kinds, width)
        graphs = graphs.with_(x=x)
        try:
            logits = victim.predict(graphs)
        except (RuntimeError, IndexError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise InvalidInput(f"the victim cannot be called on the auxiliary data ({first}); set width or kinds") from error
        y, names = logits.argmax(1), tuple(str(c) for c in range(logits.shape[1]))
        rank = F.one_hot(y, len(names)).cumsum(0).gather(1, y[:, None])[:, 0]  # how many of its class have come
        none = [name for c, name in enumerate(names) if not bool((y == c).any())]
        if none and self.purifier.trains:
            why = f"the victim says {', '.join(none)} of none of {len(y)} auxiliary graphs: they cannot show what it knows"
            raise InvalidInput(f"{why}; name its columns in kinds, or give another dataset")
        return replace(data, inputs=graphs, y=y, classes=names, kinds=self.kinds).take(rank.argsort(stable=True)[: self.n])

    def fitted(self, x: Tensor, kinds: tuple[str, ...], width: int) -> Tensor:
        """Features, float [N, d], in the victim's columns: float [N, width]."""
        pairs = [(i, i) for i in range(min(width, x.shape[1]))]
        if self.kinds and kinds:
            pairs = [(i, kinds.index(k)) for i, k in enumerate(self.kinds) if k in kinds]
        if not pairs or len(self.kinds) > width:
            given = f"{len(self.kinds)} kinds given, {len(pairs)} of them known to the auxiliary data"
            raise InvalidInput(f"{given}, and the victim takes {width} columns; name the victim's own columns, in order")
        mine, theirs = map(list, zip(*pairs, strict=True))
        out = x.new_zeros(len(x), width)
        out[:, mine] = x[:, theirs]
        return out
