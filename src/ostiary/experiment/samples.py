"""The samples of a record as files: for a training loop of one's own, another tool, or another plan."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ostiary.attacks.base import Poisoned, handed_out
from ostiary.attacks.none import Unknown
from ostiary.component import build, suggest
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.source import DataSource
from ostiary.data.user_code import executed
from ostiary.errors import InvalidInput, StoreError, UnknownName, UnsafeFile
from ostiary.experiment.bench import unpacked
from ostiary.experiment.record import Record
from ostiary.experiment.store import Store
from ostiary.writing import expanded, whole, write_tensors

PARTS = ("train", "triggered", "test", "clean")


@dataclass(frozen=True, eq=False)
class Samples:
    """data: n samples. more: what else is known of each, by name, [n]: `poisoned` (bool) and `true_labels` of a training set,
    `wanted` of triggered inputs, `tracks` where near copies are numbered."""

    data: Dataset
    more: dict[str, Tensor] = field(default_factory=dict)


def write_data(record: Record, store: str | Path, path: str | Path, *, of: str = "train", trust: bool = False) -> Path:
    """Write the samples of a record to `path`, which appears whole or not at all, and return it.

    of: train (as poisoned; labels as the model was given them), triggered (test inputs with the trigger on; their true labels
    and, beside them, what the attacker wants), test or clean (the defender's). An .npz file holds images as the data set `npz`
    reads them (in 8 bits where they survive that, else as float32), a .safetensors file samples of any kind. trust: run the
    Python file, or read the pickles, that the data set comes from. The data set is read anew and must be what it was; `store`
    holds the poison.
    Raises UnknownName, InvalidInput (another ending, or no images), UnsafeFile (without `trust`), StoreError (samples that are
    gone, elsewhere or not what they were; a file that cannot be written).
    """
    if of not in PARTS:
        raise UnknownName(f"a record has no samples '{of}'{suggest(of, PARTS)}")
    place = expanded(path)
    if place.suffix not in (".npz", ".safetensors"):
        raise InvalidInput(f"samples are written as .npz or .safetensors, not as '{place.name}'; give the file such an ending")
    found = _samples(record, Path(store), of, trust)
    if place.suffix == ".safetensors":
        _write_tensors(found, place)
    elif found.data.modality.name == "image":
        _write_npz(found, place)
    else:
        raise InvalidInput(f"an .npz file holds images, and these are {found.data.modality.name} data; write .safetensors")
    return place


def _samples(record: Record, store: Path, of: str, trust: bool) -> Samples:
    attack = bool(record.plan.get("attack"))
    if of == "triggered" and not attack:
        raise UnknownName(f"record {record.key[:8]} names no attack, so no trigger is known; it has train, test and clean")
    kept = _kept(record, store) if attack and of in ("train", "triggered") else None  # sooner than data, which may take long
    source, splits = _read(record, trust)
    if kept is not None:
        found = _poisoned(_unpacked(record, splits, kept), splits, of)
    else:
        found = Samples(getattr(handed_out(splits) if attack else splits, of))
    tracks = source.tied()
    return found if tracks is None else replace(found, more={**found.more, "tracks": tracks[found.data.ids]})


def _poisoned(poisoned: Poisoned, splits: Splits, of: str) -> Samples:
    if of == "train":
        mask = torch.zeros(len(splits.train), dtype=torch.bool).index_fill(0, poisoned.index, True)
        return Samples(poisoned.splits.train, {"poisoned": mask, "true_labels": splits.train.y})
    triggered = poisoned.triggered
    return Samples(replace(triggered, y=splits.test.y[poisoned.rows]), {"wanted": triggered.y})


def _kept(record: Record, store: Path) -> bytes:
    """The poison that a store keeps of a record."""
    key = record.stages.get("victim", "")
    with Store(store, create=False) as book:
        book.check_here(record, "victim")
        row = book.stage(key)
        digest = (row.artefacts if row else record.artefacts.get("victim", {})).get("poison")
        if digest is None:
            raise StoreError(f"the store {store} holds no poisoned samples of record {record.key[:8]}; run its plan again")
        return book.get_object(digest)


def _read(record: Record, trust: bool) -> tuple[DataSource, Splits]:
    """The data set of a record and its parts, without any poison, as they were."""
    settings, seed, mark = record.plan["dataset"], record.plan.get("seed"), record.metrics.get("data", {}).get("fingerprint")
    if not isinstance(seed, int) or mark is None:
        raise StoreError(f"record {record.key[:8]} does not tell which data it is about; run its plan again")
    if not trust and (files := ", ".join(executed(settings))):
        raise UnsafeFile(f"the data of record {record.key[:8]} come of {files}; if you trust it, say so: --trust (trust=True)")
    source: DataSource = build("dataset", settings)
    splits = source.load(seed)
    if splits.fingerprint() != mark:
        raise StoreError(
            f"the data set '{source.name}' is no longer what record {record.key[:8]} was made of; bring its files back, or run "
            "the plan again"
        )
    return source, splits


def _unpacked(record: Record, splits: Splits, kept: bytes) -> Poisoned:
    """Raises StoreError for bytes that no attack on these data can have left."""
    try:
        found = unpacked(splits, load_tensors(kept), Unknown())
        for data in (found.splits.train, found.triggered):
            splits.modality.validate(data.inputs, "the store")
            known = 0 <= int(data.y.min()) <= int(data.y.max()) < data.n_classes
            if not known or len(data) != data.modality.count(data.inputs):
                raise ValueError("no labels of its inputs")
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        said = f"what the store keeps of the poison of record {record.key[:8]} does not fit its data"
        raise StoreError(f"{said}; run its plan again in a fresh store") from error
    return found


def _write_npz(samples: Samples, place: Path) -> None:
    """As the data set `npz` reads it: images [n, h, w, c]."""
    data, pixels = samples.data, samples.data.inputs.permute(0, 2, 3, 1).contiguous()
    eight = (pixels * 255).round().to(torch.uint8)
    images = eight if torch.equal(eight.float() / 255, pixels) else pixels
    held = {"images": images, "labels": data.y, "ids": data.ids, **samples.more}
    arrays = {"classes": np.array(data.classes), **{name: value.numpy() for name, value in held.items()}}
    with whole(place) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _write_tensors(samples: Samples, place: Path) -> None:
    data = samples.data
    names = {"modality": data.modality.name, "classes": json.dumps(data.classes), "kinds": json.dumps(data.kinds)}
    write_tensors({**data.modality.exported(data.inputs), "y": data.y, "ids": data.ids, **samples.more}, place, names)
