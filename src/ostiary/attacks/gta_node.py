"""GTA on nodes."""

from __future__ import annotations

from ostiary.attacks.injection import Injection


class GTANode(Injection, name="gta-node"):
    """Joins new nodes that a generator makes to random nodes, with success as its only aim.

    Source: Xi, Pang, Ji & Wang, Graph Backdoor, USENIX Security 2021, arXiv:2006.11890, on nodes as in Dai, Lin, Zhang &
    Wang, WWW 2023, arXiv:2303.01263, where it is a baseline: UGBA without its choice of nodes and its penalty. The adversary
    controls training data only, and trains a surrogate. Defaults and differences: those of `ugba`.
    """
