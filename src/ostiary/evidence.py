"""What a defender may hold. No poisoned test set, no index, no trigger: a method that tunes on them cannot be written by
accident. The one exception, `oracle`, is given only where a plan asks for it by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput, MissingEvidence, OstiaryError
from ostiary.models.victim import Victim


@dataclass(frozen=True, eq=False)
class Evidence:
    """victim: the suspicious model. train: the suspicious training set. clean: a few trusted samples. incoming:
    unlabelled inputs seen in operation (labels are blanked, order shuffled). oracle: (accuracy, ASR) of a model on the test
    set; no defender has it, and it exists only to reproduce papers that chose by it."""

    victim: Victim | None = None
    train: Dataset | None = None
    clean: Dataset | None = None
    incoming: Dataset | None = None
    oracle: Callable[[Victim], tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        kinds = {"victim": Victim, "train": Dataset, "clean": Dataset, "incoming": Dataset}
        for name, kind in kinds.items():
            held = getattr(self, name)
            if held is not None and not isinstance(held, kind):
                how = "Victim(module, modality)" if kind is Victim else "ostiary.graphs, ostiary.images or ostiary.nodes"
                raise InvalidInput(f"{name} is of type {type(held).__name__}, expected a {kind.__name__}; make one by {how}")

    def only(self, needs: Iterable[str], who: str) -> Evidence:
        """Just what `needs` names. Raises MissingEvidence for what is not there."""
        kept: dict[str, Any] = {f.name: getattr(self, f.name) if f.name in set(needs) else None for f in fields(self)}
        missing = [name for name in sorted(needs) if _nothing(kept[name])]
        if missing:
            raise MissingEvidence(f"{who} needs {' and '.join(missing)}, which was not given or is empty")
        return Evidence(**kept)

    def checked(self) -> Evidence:
        """The same, the clean data with a class for every output of the victim: of some there may be no sample, and a backdoor
        leads there all the same. Raises InvalidInput if the victim cannot be called on the data that stand beside it."""
        data = next((d for d in (self.clean, self.train, self.incoming) if d is not None), None)
        if self.victim is None or data is None:
            return self
        for p in self.victim.parameters():
            if p.dtype in (torch.float16, torch.bfloat16):
                raise InvalidInput(
                    f"the victim's weights are {p.dtype}, too coarse to train or to measure; call module.float()"
                )
        name = "clean data" if data is self.clean else "training set" if data is self.train else "incoming inputs"
        try:
            logits = self.victim.predict(data.take(torch.arange(min(2, len(data)), device=data.ids.device)).inputs)
        except OstiaryError:
            raise
        except Exception as error:  # whatever a module of somebody else's raises
            first = (str(error) or type(error).__name__).splitlines()[0]
            if any(p.dtype == torch.float64 for p in self.victim.parameters()):
                said = f"the victim's weights are float64, the data float32 ({first}); call module.float()"
                raise InvalidInput(said) from error
            given = ", ".join(f"{k} {v}" for k, v in data.describe().items() if isinstance(v, int))
            raise InvalidInput(
                f"the victim cannot be called on the {name} ({first}; they have {given}); give data it was made for, or say "
                "how it is called with Victim(..., forward=lambda module, batch: ...)"
            ) from error
        if not bool(logits.isfinite().all()):
            raise InvalidInput("the victim's outputs hold NaN or infinite values; load sound weights")
        if logits.shape[1] < data.n_classes:
            two = "; if its output is a logit, give two with forward=lambda m, b: torch.nn.functional.pad(m(b), (1, 0))"
            said = f"the victim knows {logits.shape[1]} classes but the {name} have {data.n_classes}"
            raise InvalidInput(said + two * (logits.shape[1] == 1))
        more = tuple(f"output {c}" for c in range(data.n_classes, logits.shape[1]))
        return replace(self, clean=replace(self.clean, classes=self.clean.classes + more)) if self.clean and more else self

    @property
    def modality_name(self) -> str:
        held = next(v for v in (self.victim, self.train, self.clean, self.incoming) if v is not None)
        return held.modality.name


def _nothing(held: object) -> bool:
    return held is None or (isinstance(held, Dataset) and len(held) == 0)
