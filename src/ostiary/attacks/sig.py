"""SIG."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import CleanLabel, LabelRule
from ostiary.component import Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.additive import Sinusoid
from ostiary.triggers.base import Trigger


class SIG(PoisoningAttack, name="sig"):
    """Adds a sinusoid along the columns to images of the target class, whose labels stay right.

    Source: Barni, Kallas & Tondi, A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning,
    ICIP 2019, arXiv:1902.11237. The adversary controls training data only. `amplitude` 40 / 255, `frequency` 6 periods
    per image: paper. `amplitude_test`: in use, the same if not given (a stronger one, 60 / 255, is common). `rate` is a
    share of the whole training set as everywhere: 5 % is half of one class of ten (ours; the paper poisons 20 to 40 % of
    the class). `labels` all-to-one: the form with wrong labels. Differs from the paper: none known.
    """

    modalities = frozenset({"image"})
    rate: Rate = 0.05
    labels: LabelRule = CleanLabel()
    amplitude: Rate = 40 / 255
    amplitude_test: Rate | None = None
    frequency: Positive = 6

    def make_trigger(self, train: Dataset, ctx: Context) -> Sinusoid:
        return Sinusoid(amplitude=self.amplitude, frequency=self.frequency)

    def at_test(self, trigger: Trigger) -> Trigger | None:
        return None if self.amplitude_test is None else trigger.replace(amplitude=self.amplitude_test)
