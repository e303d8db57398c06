"""Joint partition of training set and edges."""

from __future__ import annotations

from torch import Tensor

from ostiary.component import Positive
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import counts_degrees
from ostiary.models.votes import View
from ostiary.purifiers.certificate import Certificate, margins
from ostiary.purifiers.edge_partition import EdgeGroups
from ostiary.purifiers.training_partition import Partitioned


class JointPartition(Partitioned, name="joint-partition"):
    """Models of disjoint parts of the training set, each voting on every edge group of a graph: covers both ends of a backdoor.

    Source: ours, a composition of deep partition aggregation (Levine & Feizi, ICLR 2021, arXiv:2006.14768) and GNNCert (Xia
    et al., ICLR 2024). The defender holds the suspicious training set. Of `parts` x `groups` votes a poisoned training graph
    spoils `groups`, a flipped edge of the input `parts`: r graphs and m edges together are outlasted where
    r `groups` + m `parts` is at most half the lead. `parts` 5, `groups` 10: ours, so that small sets still learn.
    """

    parts: Positive = 5
    groups: Positive = 10

    def refuse(self, evidence: Evidence) -> str:
        train = evidence.train
        degrees = int(counts_degrees(train.inputs).sum())
        if abs(2 * degrees - len(train)) <= self.parts:  # else no number of graphs within a radius decides
            return (
                f"{degrees} of {len(train)} training graphs have degrees for features, too even to tell; give all or none such"
            )
        return super().refuse(evidence)

    def view(self, key: int = 0, degrees: bool = False) -> View:
        return EdgeGroups(self.groups, "edge", key, degrees)

    def certify(self, votes: Tensor, inputs: Inputs) -> Certificate:
        costs = {"edges": self.parts, "poisoned": self.groups * self.spoilt()}
        return Certificate(votes, *margins(votes), costs=costs)
