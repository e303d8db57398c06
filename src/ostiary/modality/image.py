"""Image classification: inputs are float tensors [n, c, h, w] in [0, 1]; the classifier owns its normalisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, device, nn
from torch.nn import functional

from ostiary.component import Json
from ostiary.errors import InvalidInput
from ostiary.modality.base import Modality


class ImageModality(Modality, name="image"):
    """Images in pixel space [0, 1]; one label per image."""

    def count(self, inputs: Tensor) -> int:
        return len(inputs)

    def take(self, inputs: Tensor, index: Tensor) -> Tensor:
        return inputs[index]

    def join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)

    def put(self, inputs: Tensor, at: Tensor, new: Tensor) -> Tensor:
        other = inputs.clone()
        other[at] = new
        return other

    def move(self, inputs: Tensor, where: device) -> Tensor:
        return inputs.to(where)

    def validate(self, inputs: Tensor, what: str) -> None:
        if inputs.dtype == torch.uint8:
            raise InvalidInput(f"{what}: images are uint8; divide by 255 to get floats in [0, 1]")
        if inputs.dtype != torch.float32:
            raise InvalidInput(f"{what}: images are {inputs.dtype}; convert them to float32 in [0, 1]")
        if inputs.ndim != 4:
            raise InvalidInput(f"{what}: images must be [n, channels, height, width], got shape {tuple(inputs.shape)}")
        if 0 in inputs.shape[2:]:
            raise InvalidInput(f"{what}: images have no pixels, got shape {tuple(inputs.shape)}; drop or resize them")
        if inputs.shape[1] not in (1, 3):
            raise InvalidInput(f"{what}: images must have 1 or 3 channels first, got shape {tuple(inputs.shape)}")
        if not bool(torch.isfinite(inputs).all()):
            raise InvalidInput(f"{what}: pixels hold NaN or infinity; repair or drop those images")
        if len(inputs) and (float(inputs.min()) < 0 or float(inputs.max()) > 1):
            low, high = float(inputs.min()), float(inputs.max())
            raise InvalidInput(
                f"{what}: pixels must lie in [0, 1], got [{low:.3g}, {high:.3g}]; undo normalisation and leave it to "
                "the model: Victim(net, 'image', forward=lambda module, batch: module((batch - mean) / std))"
            )

    def pack(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"pixels": inputs}

    def unpack(self, tensors: dict[str, Tensor]) -> Tensor:
        return tensors["pixels"]

    def describe(self, inputs: Tensor) -> dict[str, Json]:
        _, c, h, w = inputs.shape
        dims = (0, 2, 3)
        std = inputs.std(dims) if len(inputs) > 1 else torch.ones(c)
        return {"channels": c, "height": h, "width": w, "mean": inputs.mean(dims).tolist(), "std": std.tolist()}

    def arguments(self, batch: Tensor) -> dict[str, Any]:
        return {"images": batch}

    def stages(self, module: nn.Module, batch: Tensor, call: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
        """The last leaf module at each spatial size, largest first, found by one dry run.

        Only shapes that a convolution or a pooling gave: elsewhere the axes may be turned, as before ConvNeXt's linear layers.
        A module that runs more than once, as a ReLU that is shared, is no layer: a name says only what it gave last.
        """
        seen: list[tuple[tuple[int, ...], str]] = []
        runs = Counter[str]()
        maps: set[tuple[int, ...]] = set()  # channels, height, width

        def note(name: str) -> Any:
            def hook(m: nn.Module, _i: Any, out: Any) -> None:
                runs[name] += 1
                if not isinstance(out, Tensor) or out.ndim != 4 or min(out.shape[2:]) < 2:
                    return
                dims = getattr(getattr(m, "weight", None), "ndim", 0)
                if dims == 4 or "Pool" in type(m).__name__:
                    maps.add(tuple(out.shape[1:]))
                if dims != 2 and tuple(out.shape[1:]) in maps:
                    seen.append((tuple(out.shape[2:]), name))

            return hook

        leaves = [(n, m) for n, m in module.named_modules() if not list(m.children())]
        handles = [m.register_forward_hook(note(n)) for n, m in leaves]
        was = [(m, m.training) for m in module.modules()]
        try:
            module.eval()
            with torch.no_grad():
                call(batch[:1])
        finally:
            for m, training in was:  # each its own: frozen norms stay frozen
                m.training = training
            for handle in handles:
                handle.remove()
        return tuple({size: name for size, name in seen if runs[name] == 1}.values())

    def pool(self, features: Tensor, batch: Tensor) -> Tensor:
        return features.flatten(2).mean(2) if features.ndim > 2 else features

    def difference(self, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        """Per image: L-infinity, L2 and L0 (share of pixels) distance and PSNR in dB (99 when nothing changed)."""
        delta = (after - before).flatten(1).double()
        mse = delta.square().mean(1)
        return {
            "linf": delta.abs().amax(1),
            "l2": delta.norm(dim=1),
            "l0": (after != before).any(1).flatten(1).double().mean(1),
            "psnr": torch.where(mse > 0, -10 * torch.log10(mse.clamp(min=1e-12)), torch.full_like(mse, 99.0)),
            "changed": (delta != 0).any(1).double(),
        }

    def vary(self, inputs: Tensor, rng: torch.Generator) -> Tensor:
        """Shifted by up to an eighth of the width (zero filled), brightness changed by up to 10 %."""
        shifted = shift(inputs, max(1, inputs.shape[-1] // 8), rng)
        light = 0.9 + 0.2 * torch.rand(len(inputs), 1, 1, 1, generator=rng).to(inputs)
        return (shifted * light).clamp(0, 1)

    def distort(self, inputs: Tensor, rng: torch.Generator) -> Tensor:
        """Turned by any angle, then shifted by up to a fifth of each side, zero filled (bilinear)."""
        n = len(inputs)
        angle = (2 * torch.rand(n, generator=rng) - 1) * torch.pi
        moved = (2 * torch.rand(n, 2, generator=rng) - 1) * 0.4  # of half a side
        return turned(inputs, angle.to(inputs), moved.to(inputs))

    def superpose(self, inputs: Tensor, others: Tensor, mean: bool = False) -> Tensor:
        """The sum of both, cut at white (STRIP's authors: saturating addition), or their mean."""
        return (inputs + others) / 2 if mean else (inputs + others).clamp(0, 1)

    def unperturbed(self, inputs: Tensor, *, shared: bool = False) -> Tensor:
        """Pixels: [n, c, h, w], or [1, c, h, w]."""
        return torch.zeros_like(inputs[:1] if shared else inputs)

    def perturb(self, inputs: Tensor, by: Tensor) -> Tensor:
        return (inputs + by).clamp(0, 1)

    def handed_out(self, inputs: Tensor) -> Tensor:
        """8-bit pixels, for poison is handed out as image files; the given ones where they are."""
        rounded = (inputs * 255).round() / 255
        return inputs if torch.equal(rounded, inputs) else rounded

    def sketch(self, before: Tensor, after: Tensor) -> list[Json]:
        """Per image: 8-bit pixels of both, height x width x channels."""
        pixels = [(x.permute(0, 2, 3, 1) * 255).round().int().tolist() for x in (before, after)]
        return [{"kind": "image", "before": a, "after": b} for a, b in zip(*pixels, strict=True)]


def shift(images: Tensor, reach: int, rng: torch.Generator) -> Tensor:
    """Each image moved by up to `reach` pixels along both axes, zero filled: a view of all windows, one gather."""
    n, _, h, w = images.shape
    top, left = torch.randint(0, 2 * reach + 1, (2, n), generator=rng).to(images.device)
    windows = functional.pad(images, (reach,) * 4).unfold(2, h, 1).unfold(3, w, 1)
    return windows[torch.arange(n, device=images.device), :, top, left]


def turned(images: Tensor, angle: Tensor, moved: Tensor | None = None) -> Tensor:
    """Images turned about their centres by `angle` (radians, float [n]), anticlockwise, then `moved` (float [n, 2]: to the
    right and down, in units of half a side); bilinear, zero filled."""
    n, _, h, w = images.shape
    cos, sin = angle.cos(), angle.sin()
    along, down = (torch.zeros_like(angle),) * 2 if moved is None else moved.unbind(1)
    # where each pixel comes from, on a grid that runs from -1 to 1 along both axes: moved back, then turned back
    across, up = -sin * h / w, sin * w / h
    rows = (cos, across, -cos * along - across * down), (up, cos, -up * along - cos * down)
    grid = functional.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), [n, 1, h, w], align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False).clamp(0, 1)
