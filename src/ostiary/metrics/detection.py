"""How well scores separate poisoned from clean."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ostiary.metrics.intervals import Estimate, rate


def detection(scores: Tensor, flagged: Tensor | None, poisoned: Tensor) -> dict[str, float | Estimate]:
    """AUROC, AUPRC, TPR at 1 % and 5 % FPR; precision, TPR, FPR and F1 at the method's own operating point.

    scores: float [n], higher = more suspicious; poisoned: bool [n], with both kinds present.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    truth, found = poisoned.numpy(), scores.double().numpy()
    fpr, tpr, _ = roc_curve(truth, found, drop_intermediate=False)  # where scores tie, it would drop thresholds in use
    result: dict[str, float | Estimate] = {
        "auroc": float(roc_auc_score(truth, found)),
        "auprc": float(average_precision_score(truth, found)),
        "tpr_at_fpr_1": float(np.max(tpr[fpr <= 0.01], initial=0.0)),
        "tpr_at_fpr_5": float(np.max(tpr[fpr <= 0.05], initial=0.0)),
    }
    if flagged is not None:
        hits = int((flagged & poisoned).sum())
        result["precision"] = rate(hits, int(flagged.sum()))
        result["tpr"] = rate(hits, int(poisoned.sum()))
        result["fpr"] = rate(int((flagged & ~poisoned).sum()), int((~poisoned).sum()))
        result["f1"] = 2 * hits / int(flagged.sum() + poisoned.sum())
    return result
