"""Importing torchvision beside a torch that its compiled part was not built for."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from ostiary.errors import MissingPackage

_declared: list[torch.library.Library] = []  # schemas last as long as their library object


def import_torchvision() -> ModuleType:
    """torchvision, also where plain `import torchvision` ends in "operator torchvision::nms does not exist".

    The wheel of the package index is built for CUDA; beside a CPU-only torch its compiled part does not load, and two of
    its operators, for which it then wants to describe shapes, are unknown. Their schemas are declared here, and only where
    the import fails without them: models, transforms and data sets then work; the operators themselves, and decoding
    of image files, do not. Call it before `import timm` as well. Raises MissingPackage where torchvision is not installed, or
    cannot be loaded for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise MissingPackage("torchvision", "vision", error) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        return importlib.import_module("torchvision")
