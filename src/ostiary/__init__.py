"""Ostiary finds, measures and removes backdoors in neural networks.

The names below are resolved on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "build": "ostiary.component",
    "Context": "ostiary.context",
    "Dataset": "ostiary.data.dataset",
    "Splits": "ostiary.data.dataset",
    "graphs": "ostiary.data.user",
    "images": "ostiary.data.user",
    "nodes": "ostiary.data.user",
    "split_data": "ostiary.data.user",
    "import_torchvision": "ostiary.data.torchvision_import",
    "Evidence": "ostiary.evidence",
    "Victim": "ostiary.models.victim",
    "Trainer": "ostiary.training.trainer",
    "pool": "ostiary.models.graph_layers",
    "load_weights": "ostiary.models.weights",
    "save_weights": "ostiary.models.weights",
    "Plan": "ostiary.experiment.plan",
    "Record": "ostiary.experiment.record",
    "run": "ostiary.experiment.runner",
    "write_data": "ostiary.experiment.samples",
    "write_report": "ostiary.report.html",
    "OstiaryError": "ostiary.errors",
}
__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - names resolved by __getattr__

if TYPE_CHECKING:
    from ostiary.component import build as build
    from ostiary.context import Context as Context
    from ostiary.data.dataset import Dataset as Dataset
    from ostiary.data.dataset import Splits as Splits
    from ostiary.data.torchvision_import import import_torchvision as import_torchvision
    from ostiary.data.user import graphs as graphs
    from ostiary.data.user import images as images
    from ostiary.data.user import nodes as nodes
    from ostiary.data.user import split_data as split_data
    from ostiary.errors import OstiaryError as OstiaryError
    from ostiary.evidence import Evidence as Evidence
    from ostiary.experiment.plan import Plan as Plan
    from ostiary.experiment.record import Record as Record
    from ostiary.experiment.runner import run as run
    from ostiary.experiment.samples import write_data as write_data
    from ostiary.models.graph_layers import pool as pool
    from ostiary.models.victim import Victim as Victim
    from ostiary.models.weights import load_weights as load_weights
    from ostiary.models.weights import save_weights as save_weights
    from ostiary.report.html import write_report as write_report
    from ostiary.training.trainer import Trainer as Trainer


if not TYPE_CHECKING:  # to which any name would be right

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'ostiary' has no attribute '{name}'")
        return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
