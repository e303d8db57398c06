"""How near a trigger that a defence recovered comes to the attacker's."""

from __future__ import annotations

from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.base import Poisoned
from ostiary.data.dataset import Trial
from ostiary.metrics.intervals import Estimate, averaged, rate
from ostiary.metrics.stealth import spaced
from ostiary.models.victim import Victim

JUDGED = 100  # test sources of each wanted class


def recovery(victim: Victim, poisoned: Poisoned, trial: Trial) -> dict[str, Estimate]:
    """What `trial` puts on test sources, by the model that it was recovered from; means over the wanted classes it is known of.

    recovered_asr: share of the sources that it leads to the wanted class. recovered_similarity: mean cosine in [-1, 1] of the
    victim's features of a source with it and of one with the attacker's trigger, over all pairs (GCleaner, Zhang et al. 2024,
    Table 4, where also other inputs of the two may be compared); source_similarity: the same of sources without a trigger, what
    any input has. Of JUDGED sources of each class, as recovery did not see them. Empty where there is no trigger for any."""
    test, wanted = poisoned.splits.test, poisoned.triggered.y
    rates, alike, plain = list[Estimate](), list[float](), list[float]()
    for goal in wanted.unique().tolist():
        at = (wanted == goal).nonzero().flatten()
        at = at[spaced(len(at), JUDGED)]
        sources = test.take(poisoned.rows[at])
        marked = trial(sources.move(victim.device), goal)
        if marked is None:
            continue
        said, own = victim.embed(test.modality.move(marked, torch.device("cpu")))
        theirs, without = (victim.embed(inputs)[1] for inputs in (poisoned.triggered.take(at).inputs, sources.inputs))
        rates.append(rate(int((said.argmax(1) == goal).sum()), len(at)))
        alike.append(_cosine(own, theirs))
        plain.append(_cosine(without, theirs))
    if not rates:
        return {}
    asr = rates[0] if len(rates) == 1 else averaged(rates)
    means = {"recovered_similarity": fmean(alike), "source_similarity": fmean(plain)}
    return {"recovered_asr": asr, **{name: {"value": value, "n": asr["n"]} for name, value in means.items()}}


def _cosine(some: Tensor, others: Tensor) -> float:
    """Mean cosine of a row of one (float [n, d]) and a row of the other, over all pairs."""
    return float(F.normalize(some.double(), dim=1).mean(0) @ F.normalize(others.double(), dim=1).mean(0))
