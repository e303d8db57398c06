"""ONE ROW PER METHOD: data, settings, and bounds on what comes out. No row, no pass.

A new method adds one `Row(...)`. Bounds must be wide enough for another seed and narrow enough that a method which does
nothing falls outside them. What can be bounded, by kind (all rates in [0, 1]):

attack     acc, asr, natural, asr_lift, asr_strict, ra, cross (ostiary.evaluate), poisoned (samples)
detector   auroc, auprc, tpr, fpr, precision; for a detector about the model: found_target
purifier   acc, asr, ra, der, drop (accuracy lost), fall (ASR before - ASR after), before (ASR before)
explainer  fidelity: confidence lost without the best-scored 30 % of edges or pixels, less that without the worst-scored
victim     acc
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Spec = Mapping[str, Any]

GRAPHS: Spec = {"name": "toy-graphs", "n": 400, "test_rate": 0.4}  # 240 / 120 / 40
IMAGES: Spec = {"name": "toy-images", "n": 400, "test_rate": 0.4}
MORE_IMAGES: Spec = {"name": "toy-images", "n": 600, "n_classes": 6, "test_rate": 0.4}
IMAGES3: Spec = {"name": "toy-images", "n": 500, "n_classes": 3, "test_rate": 0.4}
IMAGES32: Spec = {"name": "toy-images", "n": 240, "size": 32, "test_rate": 0.3}
MOLECULES: Spec = {"name": "solubility"}  # here fine-tuning leaves a clique's success, which on toy graphs it takes
GRAPHS3: Spec = {**GRAPHS, "n": 500, "n_classes": 3}  # 300 / 150 / 50
GIN: Spec = {"name": "gin", "hidden": 32, "layers": 2}
MAXGIN: Spec = {**GIN, "pooling": "max"}
WORKS = {"acc": (0.8, 1), "asr_lift": (0.6, 1), "poisoned": (24, 24)}
MANY = {**WORKS, "asr_lift": (0.5, 1), "poisoned": (90, 96)}
LONGER: Spec = {"epochs": 40, "batch_size": 32}
NODES: Spec = {
    **{"name": "sbm", "nodes": 600, "sizes": [1, 1, 1, 1], "edges": 1200, "words": 200, "length": 12, "signal": 0.2},
    "test_rate": 0.3,  # 420 / 162 / 18
}
GCN: Spec = {"name": "gcn", "hidden": 32}
WHOLE: Spec = {"epochs": 100, "lr": 0.01, "batch_size": 1000, "weight_decay": 5e-4, "schedule": "constant"}  # graph at once
MADE: Spec = {"rate": 0.04, "epochs": 120, "others": 64, "warm_up": 40}  # new nodes by a generator
MADE_SMALL: Spec = {"rate": 0.1, "epochs": 4, "others": 16, "warm_up": 1}
RESNET: Spec = {"name": "preact-resnet", "width": 8, "blocks": [1, 1]}
CLIQUE: Spec = {"name": "sub-ba", "size": 4, "density": 1.0, "rate": 0.1}
RARE_CLIQUE: Spec = {**CLIQUE, "rate": 0.05}
SEEN = {"acc": (0.9, 1), "asr_lift": (0.6, 1), "poisoned": (24, 24)}
CORNER: Spec = {"name": "badnets", "rate": 0.05}


@dataclass(frozen=True)
class Row:
    """kind, name: the method; settings: its options; data, victim, trainer, attack: what it works on.

    bounds: figure -> (lowest, highest). small: options for the contract check on top of `settings`. tries: seeds, in turn, of
    which one must do; more than one only where a method is known to fail on some, and which ones, the machine decides too.
    """

    kind: str
    name: str
    data: Spec
    bounds: Mapping[str, tuple[float, float]]
    victim: Spec = field(default_factory=dict)
    settings: Spec = field(default_factory=dict)
    attack: Spec = field(default_factory=dict)
    trainer: Spec = field(default_factory=lambda: {"epochs": 20, "batch_size": 32})
    small: Spec = field(default_factory=dict)
    tries: int = 1

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, **self.settings}


ROWS: tuple[Row, ...] = (
    # attacks: they work (lift), leave clean accuracy alone, and a clean model does not see the trigger as the target
    Row("attack", "sub-ba", GRAPHS, WORKS, GIN, dict(CLIQUE)),
    Row("attack", "badnets", IMAGES, {"acc": (0.9, 1), "asr_lift": (0.8, 1), "poisoned": (24, 24)}, RESNET, {"rate": 0.1}),
    Row("attack", "blended", IMAGES, {"acc": (0.9, 1), "asr_lift": (0.8, 1), "poisoned": (24, 24)}, RESNET, {"rate": 0.1}),
    Row(
        "attack",
        "gta",
        GRAPHS,
        {"acc": (0.8, 1), "asr": (0.8, 1), "asr_lift": (0.5, 1), "poisoned": (48, 48)},
        GIN,
        {"rate": 0.2, "rounds": 8, "steps": 10, "hidden": 16},
        trainer=LONGER,
        small={"rounds": 2, "steps": 2},
    ),
    Row(
        "attack",
        "exp-ba",
        GRAPHS,
        {"acc": (0.8, 1), "asr_lift": (0.6, 1), "poisoned": (24, 24)},
        GIN,
        {"size": 4, "density": 1.0, "rate": 0.1},
    ),
    Row("attack", "motif-ba", GRAPHS, WORKS, GIN, {"rate": 0.1}),
    Row("attack", "trap", GRAPHS, WORKS, GIN, {"rate": 0.1, "flips": 5}, trainer=LONGER),
    Row(
        "attack",
        "gradient-clba",
        GRAPHS,
        {"acc": (0.8, 1), "asr_strict": (0.6, 1), "asr_lift": (0.35, 1), "poisoned": (50, 60)},
        {**MAXGIN, "deep_head": False},
        {"rate": 0.2, "flips": 12, "steps": 6, "positive_only": True},
        trainer=LONGER,
    ),
    # clean labels: on toys it takes most of the class and a large clique
    Row(
        "attack",
        "er-clba",
        GRAPHS,
        {**WORKS, "asr_lift": (0.5, 1), "poisoned": (90, 96)},
        MAXGIN,
        {"size": 8, "density": 1.0, "rate": 0.4},
        trainer=LONGER,
    ),
    Row(
        "attack",
        "dpsba",
        GRAPHS,
        {**WORKS, "asr_lift": (0.5, 1), "poisoned": (70, 72)},
        MAXGIN,
        {"size": 4, "rate": 0.3, "rounds": 8, "hidden": 16, "structure": 0.3, "keep": 1.0},
        trainer=LONGER,
        small={"rounds": 2, "steps": 2},
        tries=5,
    ),
    # a new subgraph for each of three classes, in turn
    Row(
        "attack",
        "multi-target",
        GRAPHS3,
        {**WORKS, "asr_lift": (0.5, 1), "poisoned": (60, 60)},
        GIN,
        {"rate": 0.2, "size": 4},
        trainer=LONGER,
    ),
    # the inner attack still works while its embeddings are pushed apart
    Row(
        "attack",
        "adaptive",
        GRAPHS,
        {"acc": (0.8, 1), "asr_lift": (0.5, 1), "poisoned": (24, 24)},
        GIN,
        {"attack": dict(CLIQUE), "alpha": 0.5},
        trainer=LONGER,
    ),
    # nodes of one graph
    Row(
        "attack",
        "sba",
        NODES,
        {"acc": (0.75, 1), "asr": (0.65, 1), "asr_lift": (0.5, 1), "poisoned": (21, 21)},
        GCN,
        {"features": "gen", "rate": 0.05},
        trainer=WHOLE,
    ),
    Row(
        "attack",
        "gta-node",
        NODES,
        {"acc": (0.75, 1), "asr": (0.85, 1), "asr_lift": (0.7, 1), "poisoned": (17, 17)},
        GCN,
        MADE,
        trainer=WHOLE,
        small=MADE_SMALL,
    ),
    Row(
        "attack",
        "ugba",
        NODES,
        {"acc": (0.75, 1), "asr": (0.9, 1), "natural": (0, 0.15), "asr_lift": (0.8, 1), "poisoned": (17, 17)},
        GCN,
        MADE,
        trainer=WHOLE,
        small=MADE_SMALL,
    ),
    Row(
        "attack",
        "dpgba",
        NODES,
        {"acc": (0.75, 1), "asr": (0.6, 1), "asr_lift": (0.5, 1), "poisoned": (17, 17)},
        GCN,
        MADE,
        trainer=WHOLE,
        small=MADE_SMALL,
    ),
    Row(
        "attack",
        "percba",
        NODES,
        {"acc": (0.75, 1), "asr": (0.6, 1), "asr_lift": (0.5, 1), "poisoned": (21, 21)},
        GCN,
        {"rate": 0.05},
        trainer=WHOLE,
    ),
    # right labels: the bars of toy classes are so easy that the wave must be on most of the class and stronger in use
    Row(
        "attack",
        "sig",
        IMAGES,
        {**SEEN, "poisoned": (48, 48)},
        RESNET,
        {"rate": 0.2, "frequency": 3, "amplitude": 0.2, "amplitude_test": 0.3},
    ),
    # toy images, too, on most of the class and by a large change; on digits its success changes with the seed
    Row(
        "attack",
        "label-consistent",
        IMAGES,
        {**SEEN, "natural": (0, 0.1), "poisoned": (48, 48)},
        RESNET,
        {"rate": 0.2, "eps": 0.3, "size": 4, "pattern": "white"},
        small={"steps": 2, "size": 3},
    ),
    Row(
        "attack",
        "lf",
        IMAGES,
        SEEN,
        RESNET,
        {"rate": 0.1, "images": 40, "passes": 2, "steps": 40},
        small={"images": 10, "passes": 1, "steps": 5},
    ),
    Row(
        "attack",
        "ssba",
        IMAGES,
        SEEN,
        RESNET,
        {"rate": 0.1, "width": 8, "steps": 160, "lr": 3e-3},
        small={"width": 4, "steps": 5},
    ),
    Row("attack", "trojan-nn", IMAGES, SEEN, RESNET, {"rate": 0.1, "steps": 200}, small={"steps": 5}),
    # every class of images at once; clean models see nothing in the faint changes of the first
    Row(
        "attack",
        "ppt",
        IMAGES3,
        {"acc": (0.9, 1), "natural": (0, 0.3), "asr_lift": (0.45, 1), "poisoned": (30, 30)},
        RESNET,
        {"rate": 0.1},
    ),
    Row("attack", "patch-mt", IMAGES3, {"acc": (0.9, 1), "asr_lift": (0.7, 1), "poisoned": (60, 60)}, RESNET, {"rate": 0.2}),
    Row("attack", "wanet-mt", IMAGES3, {"acc": (0.9, 1), "asr_lift": (0.6, 1), "poisoned": (90, 90)}, RESNET, {"rate": 0.3}),
    # images, with training touched
    Row(
        "attack",
        "wanet",
        IMAGES,
        {"acc": (0.9, 1), "asr_lift": (0.6, 1), "cross": (0.7, 1), "poisoned": (48, 48)},
        RESNET,
        {"rate": 0.2},
    ),
    Row(
        "attack",
        "input-aware",
        IMAGES,
        {"acc": (0.9, 1), "asr_lift": (0.6, 1), "cross": (0.4, 1), "poisoned": (72, 72)},
        RESNET,
        {"rate": 0.3, "width": 8, "mask_steps": 100, "sparsity": 10.0, "density": 0.1},
        small={"width": 4, "mask_steps": 10},
    ),
    Row(
        "attack",
        "marksman",
        IMAGES,
        {"acc": (0.9, 1), "asr_lift": (0.7, 1), "natural": (0, 0.15), "poisoned": (24, 24)},
        RESNET,
        {"rate": 0.1},
        small={"width": 4},
    ),
    # detectors
    Row("detector", "spectral", IMAGES, {"auroc": (0.8, 1), "tpr": (0.6, 1), "fpr": (0, 0.2)}, RESNET, attack=CORNER),
    Row("detector", "ed", GRAPHS, {"auroc": (0.85, 1), "tpr": (0.6, 1), "fpr": (0, 0.1)}, GIN, {"k": 6}, attack=CLIQUE),
    # toy graphs show their class by a few nodes, poisoned or not; molecules do not
    Row("detector", "xgbd", MOLECULES, {"auroc": (0.75, 1)}, GIN, attack=RARE_CLIQUE),
    Row(
        "detector",
        "seven-metrics",
        GRAPHS,
        {"auroc": (0.75, 1), "tpr": (0.25, 1), "fpr": (0, 0.15)},
        GIN,
        attack=CLIQUE,
        small={"explainer": {"name": "gnn-explainer", "epochs": 10}},
    ),
    Row(
        "detector",
        "rigbd",
        NODES,
        {"auroc": (0.7, 1), "tpr": (0.4, 1), "fpr": (0, 0.05)},
        GCN,
        attack={"name": "gta-node", **MADE},
        trainer=WHOLE,
        small={"passes": 3},
    ),
    Row(
        "detector",
        "rank-sum",
        NODES,
        {"auroc": (0.85, 1), "tpr": (0.5, 1), "fpr": (0, 0.08)},
        GCN,
        settings={"share": 0.1},
        attack={"name": "gta-node", **MADE},
        trainer=WHOLE,
        small={"first": {"name": "spectral"}, "second": {"name": "spectral", "eps": 0.2}},  # the default's are not for images
    ),
    Row(
        "detector",
        "reconstruction",
        NODES,
        {"auroc": (0.75, 1)},
        GCN,
        settings={"preset": "dominant"},
        attack={"name": "gta-node", **MADE},
        trainer=WHOLE,
        small={"epochs": 3},
    ),
    Row(
        "detector",
        "dshield",
        NODES,
        {"auroc": (0.65, 1), "tpr": (0.3, 1), "fpr": (0, 0.06)},
        GCN,
        attack={"name": "ugba", **MADE},
        trainer=WHOLE,
        small={"epochs": 3},
    ),
    # one of two classes is flagged, and it is the target; toy graphs are small, so that references share part of what it does
    Row(
        "detector",
        "inversion-scan",
        GRAPHS,
        {"found_target": (1, 1)},
        GIN,
        {"nodes": 4, "threshold": 0.15},
        attack=CLIQUE,
        small={"steps": 3, "epochs": 2},
    ),
    Row("detector", "strip", IMAGES, {"auroc": (0.8, 1)}, RESNET, attack={"name": "badnets", "rate": 0.05, "size": 4}),
    Row(
        "detector", "neural-cleanse", MORE_IMAGES, {"found_target": (1, 1)}, RESNET, {"steps": 250}, CORNER, small={"steps": 3}
    ),
    Row("detector", "mesa", IMAGES, {"found_target": (1, 1)}, RESNET, attack=CORNER, small={"steps": 3, "hidden": 16}),
    # toy images show their class by where a bar is, which every distortion moves; graphs: tests/detectors/test_fct.py
    Row(
        "detector",
        "fct",
        {"name": "digits"},
        {"auroc": (0.62, 1), "fpr": (0, 0.05)},
        RESNET,
        {"steps": 400, "batch_size": 64, "tuning_epochs": 0},
        attack={**CORNER, "rate": 0.1},
        trainer={"epochs": 5, "batch_size": 64},
        small={"steps": 4, "tuning_epochs": 1, "n_draws": 2},
    ),
    # purifiers: the backdoor was there, it falls, accuracy stays
    Row("purifier", "fine-tune", GRAPHS, {"before": (0.8, 1), "fall": (0.4, 1), "drop": (-1, 0.1)}, GIN, attack=CLIQUE),
    # on images, where fine-tuning alone takes nothing away; on graphs it takes the clique
    Row("purifier", "nad", IMAGES, {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)}, RESNET, attack=CORNER),
    Row(
        "purifier",
        "gcleaner",
        MOLECULES,
        {"before": (0.8, 1), "fall": (0.5, 1), "drop": (-1, 0.08)},
        GIN,
        {"rounds": 3},
        attack=RARE_CLIQUE,
        small={"rounds": 2, "epochs": 2, "recovery_steps": 5},
    ),
    Row("purifier", "fine-pruning", IMAGES, {"before": (0.8, 1), "fall": (0.3, 1), "drop": (-1, 0.1)}, RESNET, attack=CORNER),
    Row(
        "purifier",
        "anp",
        GRAPHS,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        GIN,
        {"steps": 200},
        attack=CLIQUE,
        small={"steps": 20},
    ),
    # isolates as many graphs as are poisoned
    Row(
        "purifier",
        "abl",
        IMAGES,
        {"before": (0.8, 1), "fall": (0.4, 1), "drop": (-1, 0.1)},
        RESNET,
        {"isolate": 0.1},
        attack={**CORNER, "rate": 0.1},
        small={"isolation_epochs": 4, "epochs": 4, "ascent_epochs": 2},
    ),
    Row(
        "purifier",
        "nc-unlearn",
        MORE_IMAGES,
        {"before": (0.8, 1), "fall": (0.5, 1), "drop": (-1, 0.1)},
        RESNET,
        {"scan": {"name": "neural-cleanse", "steps": 250}},
        CORNER,
        small={"scan": {"name": "neural-cleanse", "steps": 3, "outlier": 0.1}, "epochs": 1},
    ),
    Row(
        "purifier",
        "mesa",
        IMAGES,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        RESNET,
        attack=CORNER,
        small={"steps": 3, "scan_steps": 3, "epochs": 1, "hidden": 16, "flag": 0.0},
    ),
    # where its detector works: spectral signatures see corners on images, not cliques on toy graphs
    Row(
        "purifier", "retrain-without", IMAGES, {"before": (0.8, 1), "fall": (0.8, 1), "drop": (-1, 0.1)}, RESNET, attack=CORNER
    ),
    Row(
        "purifier",
        "ed-removal",
        GRAPHS,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        GIN,
        {"k": 6},
        attack=CLIQUE,
    ),
    Row("purifier", "graphnad", GRAPHS, {"before": (0.8, 1), "fall": (0.4, 1), "drop": (-1, 0.1)}, GIN, attack=CLIQUE),
    Row(
        "purifier",
        "auxiliary",
        GRAPHS,
        {"before": (0.8, 1), "fall": (0.4, 1), "drop": (-1, 0.1)},
        GIN,
        {"purifier": {"name": "gcleaner", "rounds": 3}, "dataset": {**GRAPHS, "n_classes": 3, "made_with": 1}, "n": 40},
        attack=CLIQUE,
        small={"purifier": {"name": "fine-tune", "epochs": 2}},
    ),
    Row(
        "purifier",
        "rigbd",
        NODES,
        {"before": (0.85, 1), "fall": (0.4, 1), "drop": (-1, 0.1)},
        GCN,
        attack={"name": "gta-node", **MADE},
        trainer=WHOLE,
        small={"finder": {"name": "rigbd", "own_model": True, "passes": 3}},
    ),
    Row(
        "purifier",
        "node-unlearning",
        NODES,
        {"before": (0.85, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        GCN,
        settings={"epochs": 200},  # by its 100 a fall of 0.41: without test nodes it has fewer to hold answers on
        attack={"name": "ugba", **MADE},
        trainer=WHOLE,
        small={"epochs": 3, "recovery_steps": 3, "others": 20},
    ),
    Row(
        "purifier",
        "prune",
        GRAPHS,
        {"before": (0.8, 1), "fall": (0.3, 1), "drop": (-1, 0.1)},
        GIN,
        {"by": "features", "when": "both"},
        attack=CLIQUE,
        small={"by": "auto"},
    ),
    # few graphs: a larger clean share and shorter ascent
    Row(
        "purifier",
        "d-br",
        GRAPHS,
        {"before": (0.8, 1), "fall": (0.4, 1), "drop": (-1, 0.15)},
        GIN,
        {"detector": {"name": "fct", "steps": 200}, "clean": 0.4, "steps": 60},
        attack=CLIQUE,
        small={"detector": {"name": "fct", "steps": 4, "tuning_epochs": 1}, "epochs": 2, "steps": 3},
    ),
    Row(
        "purifier",
        "d-st",
        GRAPHS,
        {"before": (0.8, 1), "fall": (0.4, 1), "drop": (-1, 0.1)},
        GIN,
        {"detector": {"name": "fct", "steps": 200}},
        attack=CLIQUE,
        small={"detector": {"name": "fct", "steps": 4, "tuning_epochs": 1}, "epochs": 2, "steps": 0, "head_epochs": 2},
    ),
    # votes
    Row(
        "purifier",
        "edge-drop",
        GRAPHS,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.15)},
        GIN,
        attack=CLIQUE,
        small={"samples": 8},
    ),
    Row(
        "purifier",
        "subsampling",
        MOLECULES,
        {"before": (0.8, 1), "fall": (0.5, 1), "drop": (-1, 0.08)},
        GIN,
        {"samples": 100},
        attack=RARE_CLIQUE,
        small={"samples": 8},
    ),
    Row(
        "purifier",
        "flexible-noise",
        MOLECULES,
        {"before": (0.8, 1), "fall": (0.5, 1), "drop": (-1, 0.08)},
        GIN,
        {"samples": 100},
        attack=RARE_CLIQUE,
        small={"samples": 8},
    ),
    Row(
        "purifier",
        "edge-partition",
        MOLECULES,
        {"before": (0.8, 1), "fall": (0.5, 1), "drop": (-1, 0.08)},
        GIN,
        {"groups": 10},
        attack=RARE_CLIQUE,
        small={"groups": 3},
    ),
    # few enough poisoned graphs that most parts have none or one
    Row(
        "purifier",
        "training-partition",
        GRAPHS,
        {"before": (0.7, 1), "fall": (0.4, 1), "drop": (-1, 0.1)},
        GIN,
        {"parts": 20},
        attack={**CLIQUE, "rate": 0.05},
        small={"parts": 3},
    ),
    Row(
        "purifier",
        "joint-partition",
        GRAPHS,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        GIN,
        attack=CLIQUE,
        small={"parts": 2, "groups": 3},
    ),
    # by weights that move when clean samples are unlearnt, and by perturbations
    Row(
        "purifier",
        "tsbd",
        IMAGES,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        RESNET,
        attack=CORNER,
        small={"steps": 2, "ascent_epochs": 5},
    ),
    Row(
        "purifier",
        "i-bau",
        IMAGES,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        RESNET,
        attack=CORNER,
        small={"epochs": 1, "ascent_steps": 2},
    ),
    Row(
        "purifier",
        "sau",
        IMAGES,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        RESNET,
        {"steps": 60},
        attack=CORNER,
        small={"steps": 2},
    ),
    Row(
        "purifier",
        "npd",
        IMAGES,
        {"before": (0.8, 1), "fall": (0.6, 1), "drop": (-1, 0.1)},
        RESNET,
        attack=CORNER,
        small={"epochs": 3},
    ),
    # explainers: without what they rank first the backdoored model loses its confidence, without the last it keeps it
    Row(
        "explainer",
        "gnn-explainer",
        GRAPHS,
        {"fidelity": (0.3, 1)},
        GIN,
        {"node_mask": "none"},
        attack=CLIQUE,
        small={"epochs": 10, "node_mask": "attributes"},
    ),
    Row("explainer", "pg-explainer", GRAPHS, {"fidelity": (0.3, 1)}, GIN, attack=CLIQUE, small={"epochs": 3}),
    Row(
        "explainer",
        "subgraphx",
        GRAPHS,
        {"fidelity": (0.3, 1)},
        GIN,
        {"rollouts": 10},
        attack=CLIQUE,
        small={"rollouts": 2, "samples": 3},
    ),
    Row("explainer", "integrated-gradients", GRAPHS, {"fidelity": (0.6, 1)}, GIN, attack=CLIQUE, small={"steps": 8}),
    Row("explainer", "guided-backprop", IMAGES, {"fidelity": (0.25, 1)}, RESNET, attack=CORNER),
    Row("explainer", "grad-cam", IMAGES, {"fidelity": (0.6, 1)}, RESNET, attack=CORNER),
    # victims: they learn
    Row("victim", "gin", GRAPHS, {"acc": (0.85, 1)}),
    Row("victim", "gcn", GRAPHS, {"acc": (0.85, 1)}),
    Row("victim", "graphsage", GRAPHS, {"acc": (0.85, 1)}),
    Row("victim", "gat", GRAPHS, {"acc": (0.85, 1)}),
    Row("victim", "gnnguard", GRAPHS, {"acc": (0.85, 1)}),
    Row("victim", "robust-gcn", GRAPHS, {"acc": (0.85, 1)}),
    Row("victim", "preact-resnet", IMAGES, {"acc": (0.95, 1)}),
    Row(
        "victim",
        "svhn-cnn",
        IMAGES32,
        {"acc": (0.9, 1)},
        settings={"width": 8, "dropout": 0.1},
        trainer={"epochs": 10, "batch_size": 32},
    ),
    Row("victim", "resnet", IMAGES, {"acc": (0.95, 1)}),
    Row("victim", "mobilenet-v2", IMAGES, {"acc": (0.95, 1)}),
    Row("victim", "efficientnet-b0", IMAGES, {"acc": (0.95, 1)}),
    Row("victim", "file", GRAPHS, {"acc": (0.85, 1)}, settings={"path": str(Path(__file__).with_name("user_model.py"))}),
)
