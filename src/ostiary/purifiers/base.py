"""The contract of a purifier: evidence in, a new victim out."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

from ostiary.component import Component
from ostiary.context import Context
from ostiary.errors import InvalidInput, Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim


class Purifier(Component):
    """`needs`: names of Evidence fields; the defaults suit purifiers of a given model."""

    kind = "purifier"
    modalities: ClassVar[frozenset[str]] = frozenset({"graph", "image"})
    needs: ClassVar[frozenset[str]] = frozenset({"victim", "clean"})

    @final
    def purify(self, evidence: Evidence, ctx: Context) -> Victim:
        """A new victim; the given one is left as it is. Raises Unsupported or InvalidInput before work starts."""
        held = evidence.only(self.needs, f"purifier '{self.name}'")
        if held.modality_name not in self.modalities:
            raise Unsupported(f"purifier '{self.name}' not applicable: it works on {', '.join(sorted(self.modalities))} data")
        if held.victim is not None and held.clean is not None:
            self._fits(held)
        reason = self.refuse(held)
        if reason:
            raise Unsupported(f"purifier '{self.name}' not applicable: {reason}")
        victim = self.cleanse(held, ctx)
        victim.eval()
        return victim

    def refuse(self, evidence: Evidence) -> str:
        """Why the method cannot work on this evidence, or nothing; asked before work starts."""
        return ""

    def rebuild(self, victim: Victim) -> Victim:
        """An untrained victim with the layers this method adds, to load purified weights into; adds none by default."""
        return victim

    @abstractmethod
    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        """The method itself; works on a clone of the victim."""

    def _fits(self, held: Evidence) -> None:
        assert held.victim is not None and held.clean is not None
        clean = held.clean
        if len(clean) < 2:
            raise InvalidInput(f"purifier '{self.name}' needs at least 2 clean samples, got {len(clean)}; give more")
        try:
            logits, _ = held.victim.predict(clean.take(clean.ids.new_tensor([0, 1])).inputs)
        except (RuntimeError, IndexError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise InvalidInput(f"the victim cannot be called on the clean data ({first}); give data it was made for") from error
        if logits.shape[1] < clean.n_classes:
            raise InvalidInput(f"the victim knows {logits.shape[1]} classes but the clean data have {clean.n_classes}")
