"""What one process sees of the store: finished stages, as the models, data and findings that they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from ostiary.attacks.base import Poisoned, handed_out
from ostiary.attacks.none import unknown
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.detectors.base import Findings
from ostiary.evaluate import Outputs
from ostiary.experiment.origin import UNTOLD, Origin
from ostiary.experiment.plan import Cell
from ostiary.experiment.record import StageRow
from ostiary.experiment.stages import Stage
from ostiary.experiment.store import Damaged, Store
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.triggers.base import Trigger


class Bench:
    """One process's view of the store: upstream results, loaded once and kept while they are few.

    origin: where and with what it computes, the device included."""

    def __init__(self, store: Store, origin: Origin = UNTOLD, keep: int = 8) -> None:
        self.store, self.origin, self._keep = store, origin, keep
        self.device = torch.device(origin.device or "cpu")
        self._held: OrderedDict[str, Any] = OrderedDict()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._held:
            self._held[name] = make()
            while len(self._held) > self._keep:
                self._held.popitem(last=False)
        self._held.move_to_end(name)
        return self._held[name]

    def context(self, cell: Cell, *, own: bool = False) -> Context:
        """own: of those who train models for themselves, the defender and the attacker."""
        plan = cell.plan
        return Context(cell.seed, self.device, plan.victim, plan.training(own=own))

    def splits(self, cell: Cell) -> Splits:
        key = Stage("data", cell).key()
        return self._once(f"splits {key}", lambda: cell.plan.dataset.load(cell.seed))  # type: ignore[no-any-return]

    def row(self, stage: Stage) -> StageRow:
        row = self.store.stage(stage.key())
        if row is None or row.status != "done":
            raise Damaged(f"stage {stage.name} is missing from the store; run the same command again")
        return row

    def tensors(self, stage: Stage, name: str) -> dict[str, Tensor]:
        return load_tensors(self.store.get_object(self.row(stage).artefacts[name]))

    def victim(self, stage: Stage) -> Victim:
        def make() -> Victim:
            fresh = self.context(stage.cell).fresh(self.splits(stage.cell).train)
            if isinstance(stage.part, Purifier):
                fresh = stage.part.rebuild(fresh)
            fresh.module.load_state_dict(self.tensors(stage, "weights"))
            fresh.eval()
            return fresh

        return self._once(f"victim {stage.key()}", make)  # type: ignore[no-any-return]

    def poisoned(self, cell: Cell) -> Poisoned:
        if cell.plan.attack is None:
            return unknown(self.splits(cell))
        stage = Stage("victim", cell)
        return self._once(f"poisoned {stage.key()}", lambda: _unpack(self, stage))  # type: ignore[no-any-return]

    def outputs(self, stage: Stage) -> Outputs:
        poisoned = self.poisoned(stage.cell)
        name = f"outputs {stage.key()} {Stage('victim', stage.cell).key()}"
        return self._once(name, lambda: Outputs.of(self.victim(stage), poisoned))  # type: ignore[no-any-return]

    def findings(self, row: StageRow) -> Findings:
        """What a finished detector stage found, without what it drew."""
        arrays = {name: torch.from_numpy(held) for name, held in self.store.arrays(row.artefacts["scores"]).items()}
        return Findings(arrays["scores"], arrays.get("flagged"), tuple(row.metrics["classes"]), row.metrics["info"])


def _unpack(bench: Bench, stage: Stage) -> Poisoned:
    tensors = bench.tensors(stage, "poison")
    trigger = Trigger.unpack(bench.row(stage).metrics["trigger"], _under("trigger.", tensors))
    return unpacked(bench.splits(stage.cell), tensors, trigger)


def unpacked(splits: Splits, tensors: dict[str, Tensor], trigger: Trigger) -> Poisoned:
    """What an attack made of the splits, from the tensors that are kept of it."""
    splits, index, rows = handed_out(splits), tensors["index"], tensors["rows"]
    made, stamped = (splits.modality.unpack(_under(part, tensors)) for part in ("train.", "test."))
    train = splits.train.put(index, made).relabel(index, tensors["labels"])
    triggered = replace(splits.test.take(rows), inputs=stamped, y=tensors["wanted"])
    return Poisoned(splits.with_part("train", train), index, trigger, triggered, rows, subsets=_under("subset.", tensors))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
