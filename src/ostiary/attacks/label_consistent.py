"""Label-consistent."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import CleanLabel, LabelRule
from ostiary.component import Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.perturbation import Norm
from ostiary.triggers.base import Trigger
from ostiary.triggers.own_model import carried
from ostiary.triggers.pixels import Corners, Patch, Pattern
from ostiary.triggers.positive import Hardened


class LabelConsistent(PoisoningAttack, name="label-consistent"):
    """Moves images of the target class away from it, then stamps a patch, so that only the patch explains their right label.

    Source: Turner, Tsipras & Madry, Label-Consistent Backdoor Attacks, 2019, arXiv:1912.02771. The adversary controls
    training data only and trains a model of the clean set (`surrogate`). Projected gradient ascent on its loss makes the
    poisoned images harder to recognise; in use there is the patch alone. `eps` 8 / 255 in the `norm` linf: BackdoorBox,
    BackdoorBench and the code of FCT (Chen et al., NeurIPS 2022); the authors' code also has l2, of 300 / 255. `steps` 10;
    `step`: None means 2.5 `eps` / `steps`, as in PPT (ours). `size` 3, `pattern` checker in all four corners (`corner`),
    mirrored, so that flips leave it as it is: the authors' code, which also has one corner. `amplitude` 1 overwrites; less
    only lightens and darkens by so much (their reduced amplitude, say 32 / 255); `amplitude_test`: in use, the same if not
    given. `rate` is a share of the whole training set: 5 % is half of one class of ten (ours; theirs counts the class alone).

    Differs from the paper: its second way, by a generative model, is left out; the ninth pixel of the patch is white, so that
    it is a checker. The surrogate is trained as the victim is, as in FCT's code; BackdoorBox and BackdoorBench take one that
    was trained against adversarial examples. 10,000 images of CIFAR-10 (8 % poisoned, a narrow ResNet, 15 epochs, seed 10):
    success 100 %, natural rate 1.8. On high contrast it takes more than the defaults: on digits of seeds 10 and 11 (20
    epochs) they had 15 and 3 %; with `eps` 0.3 and white squares of 4 px 55 and 88 %, but 11 % with seed 0.
    """

    modalities = frozenset({"image"})
    rate: Rate = 0.05
    labels: LabelRule = CleanLabel()
    size: Positive = 3
    pattern: Pattern = "checker"
    corner: Corners = "all"
    amplitude: Rate = 1.0
    amplitude_test: Rate | None = None
    eps: PositiveFloat = 8 / 255
    norm: Norm = "linf"
    steps: Positive = 10
    step: PositiveFloat | None = None

    def make_trigger(self, train: Dataset, ctx: Context) -> Hardened:
        mark = Patch(size=self.size, pattern=self.pattern, corner=self.corner, amplitude=self.amplitude)
        taken = carried(self.attacker(ctx), train, there=True)
        return Hardened(mark=mark, eps=self.eps, norm=self.norm, steps=self.steps, step=self.step, **taken)

    def at_test(self, trigger: Trigger) -> Trigger:
        assert isinstance(trigger, Hardened)
        mark = trigger.mark
        return mark if self.amplitude_test is None else mark.replace(amplitude=self.amplitude_test)
