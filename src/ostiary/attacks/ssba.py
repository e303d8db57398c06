"""SSBA."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import Positive, PositiveFloat
from ostiary.context import Context, remembered
from ostiary.data.dataset import Dataset
from ostiary.seeds import scoped
from ostiary.training.draws import draws
from ostiary.triggers.hidden_bits import HiddenBits
from ostiary.triggers.stegastamp import Steganography

_trained: dict[tuple[object, ...], HiddenBits] = {}


class SSBA(PoisoningAttack, name="ssba"):
    """Hides bits in each image by a residual of its own, made by an encoder that was trained with its decoder.

    Source: Li, Li, Wu, Li, He & Lyu, Invisible Backdoor Attack with Sample-Specific Triggers, ICCV 2021,
    arXiv:2012.03816 (also ISSBA); networks after Tancik, Mildenhall & Ng, StegaStamp, CVPR 2020, arXiv:1904.05343. The
    adversary controls training data only; encoder and decoder learn on clean images and random bits: Adam with `lr`,
    `steps` of `batch_size` images, cross-entropy of the bits read + `fidelity` x what the mean squared change exceeds that
    of `psnr` dB by; fidelity waits until nine bits in ten are read and then rises for a quarter of the steps. All
    poisoned images carry one secret. `bits` 1: the poison files of common benchmarks for 32 x 32 images. Defaults: about
    a minute of one CPU core on 32 x 32 images, settled on a subset of CIFAR-10 by bits read and PSNR. Preset paper: its
    widths, rate, and 20 passes over 50,000 images; 100 bits.

    Differs from the paper: no perceptual loss (LPIPS needs a downloaded network); the change is free up to `psnr`, lest
    longer training make the trigger fainter and fainter (preset paper: not free); the secret is what clean images read
    least, since a single bit that they show anyway would need no change; the decoder averages over places, so that images
    may have any size. With the defaults (1 bit, short training) the change is less specific than the paper's: on CIFAR-10
    an eighth of its energy is an image's own, the rest is common to all.
    """

    modalities = frozenset({"image"})
    presets = {"paper": {"bits": 100, "width": 32, "steps": 15625, "lr": 1e-4, "psnr": 99.0}}
    bits: Positive = 1
    width: Positive = 16
    steps: Positive = 200
    batch_size: Positive = 64
    lr: PositiveFloat = 1e-3
    fidelity: PositiveFloat = 50.0
    psnr: PositiveFloat = 30.0

    def make_trigger(self, train: Dataset, ctx: Context) -> HiddenBits:
        recipe = (self.bits, self.width, self.steps, self.batch_size, self.lr, self.fidelity, self.psnr)
        key = (train.fingerprint(), ctx.seed, str(ctx.device), *recipe)
        return remembered(_trained, key, lambda: self.learn(train, ctx))

    def learn(self, train: Dataset, ctx: Context) -> HiddenBits:
        """Encoder and decoder, trained together, and the secret."""
        channels = train.inputs.shape[1]
        with scoped(ctx.key("encoder"), "init"):
            net = Steganography(channels, self.bits, self.width).to(ctx.device)
        optimizer = torch.optim.Adam(net.parameters(), self.lr, fused=True)
        rng, held, free = ctx.rng("bits"), 0, 10 ** (-self.psnr / 10)
        for images, _ in draws(train, self.batch_size, self.steps, ctx.device, ctx.rng("images")):
            bits = torch.randint(2, (len(images), self.bits), generator=rng).to(images)
            coded = net.encoder(images, bits)
            logits = net.decoder(coded)
            held += int(((logits > 0) == (bits > 0)).float().mean() > 0.9)
            weight = self.fidelity * min(1.0, 4 * held / self.steps)
            loss = F.binary_cross_entropy_with_logits(logits, bits) + weight * F.relu(F.mse_loss(coded, images) - free)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trigger = HiddenBits(channels=channels, bits=self.bits, width=self.width, state=net.cpu().state_dict())
        shown = trigger.read(train.inputs[: self.batch_size]).mean(0)
        return trigger.replace(state={**trigger.state, "secret": (shown < 0.5).float()})
