"""The small VAE of `mini`: diffusers' AutoencoderKL with factor 8 and 16 channels, as in FLUX.

Its quality limits everything that is built on it, so it is trained first. It learns pictures of the
world, crops of photographs, and both with areas erased to grey, as in the model's inputs.

Legend: B batch, H height, W width; pictures are float32 in [-1, 1].
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from ace_tasks.model.toy import small_vae
from ace_tasks.specs import Frozen
from ace_tasks.training.loop import LoopSettings
from ace_tasks.training.world.world_tasks import draw_example


class VaeSettings(Frozen):
    """The sizes, data and losses of the VAE and its training."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 64)
    layers: int = 1
    groups: int = 8
    sizes_px: tuple[int, ...] = Field((64, 128), min_length=1)  # sizes to draw pictures in, in turn
    crop_px: int = Field(32, ge=8, multiple_of=8)  # crops of this size are trained on first
    full_from: float = 0.8  # whole pictures after this share of the steps; a trial found 3 dB more
    batch: int = 48
    pool: int = 2000
    photo_share: float = 0.15
    erased_share: float = 0.25
    kl_weight: float = 2e-4
    edge_weight: float = 0.5
    seed: int = 1
    loop: LoopSettings = LoopSettings(steps=9_000, lr=1.5e-3, ema_decay=0.999)

    @model_validator(mode="after")
    def _crops_fit(self) -> Self:
        if any(size % 8 or size < self.crop_px for size in self.sizes_px):
            raise ValueError(f"sizes_px: accepted: multiples of 8, at least {self.crop_px} px")
        return self


def make(settings: VaeSettings) -> AutoencoderKL:
    torch.manual_seed(settings.seed)
    return small_vae(
        settings.widths,
        groups=settings.groups,
        layers=settings.layers,
        sample_size=max(settings.sizes_px),
        scaling_factor=1.0,  # `settle` measures it after the training
        shift_factor=0.0,
    )


class PictureBatches:
    """Batches of pictures, each a function of its step.

    Pictures come from photographs and from a pool of the world that is renewed slowly.
    """

    def __init__(self, settings: VaeSettings, photos: list[np.ndarray]):
        self.settings = settings
        self.photos = photos
        self._pool: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, step: int) -> Tensor:
        """Return the batch of a step, float32 (B, 3, H, W)."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, step])
        whole = step >= settings.full_from * settings.loop.steps
        of_size = step % len(settings.sizes_px)
        side = settings.sizes_px[of_size] if whole else settings.crop_px
        count = settings.batch * settings.crop_px**2 // side**2  # so that each step sees as many px
        pictures = [self._one(rng, side, step, of_size) for _ in range(max(1, count))]
        x = torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2)
        return x.float() / 127.5 - 1

    def _one(self, rng: np.random.Generator, side: int, step: int, of_size: int) -> np.ndarray:
        if self.photos and rng.random() < self.settings.photo_share:
            picture = _shrunk(self.photos[int(rng.integers(len(self.photos)))], rng, side)
        else:
            # The pool is a window over the endless sequence of examples that moves with the steps.
            picture = self._world(int(rng.integers(self.settings.pool)) + step // 4, of_size)
        top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
        crop = picture[top : top + side, left : left + side].copy()
        if rng.integers(2):
            crop = crop[:, ::-1].copy()
        if rng.random() < self.settings.erased_share:
            _erase(crop, rng)
        return crop

    def _world(self, index: int, of_size: int) -> np.ndarray:
        key = (index, of_size)
        if key not in self._pool:
            if len(self._pool) > 3 * self.settings.pool:
                del self._pool[min(self._pool)]
            size_px = self.settings.sizes_px[of_size]
            example = draw_example(self.settings.seed, index, size_px)
            shown = [example.target, *example.references]
            shown += [] if example.image is None else [example.image]
            self._pool[key] = shown[index % len(shown)]
        return self._pool[key]


def _shrunk(photo: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    """Return the photograph at a random smaller size, at least `side` on each edge."""
    smallest = side / min(photo.shape[:2])
    largest = max(smallest, min(1.0, 4 * smallest))  # it is enlarged only if it is too small
    scale = float(np.exp(rng.uniform(math.log(smallest), math.log(largest))))
    size = [max(side, round(edge * scale)) for edge in (photo.shape[1], photo.shape[0])]
    return np.asarray(Image.fromarray(photo).resize((size[0], size[1]), Image.Resampling.BICUBIC))


def _erase(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Paint a grey rectangle or ellipse, which is how a masked area looks to the model."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.2, 0.8, 2) * (height, width)
    ry, rx = rng.uniform(0.15, 0.5, 2) * (height, width)
    v, u = np.abs((y - cy) / ry), np.abs((x - cx) / rx)
    picture[(np.maximum(u, v) if rng.integers(2) else np.hypot(u, v)) < 1] = 128


def loss(
    vae: Any, x: Tensor, generator: torch.Generator, settings: VaeSettings
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and its numbers.

    It is L1 on pixels and on their differences, and a little KL that keeps latents near unit size.
    """
    with torch.autocast(x.device.type, torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        eps = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
        y = vae.decode(posterior.mean + posterior.std * eps).sample
    y, mean, logvar = y.float(), posterior.mean.float(), posterior.logvar.float()
    pixels = F.l1_loss(y, x)
    edges = sum(F.l1_loss(y.diff(dim=axis), x.diff(dim=axis)) for axis in (2, 3))
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    total = pixels + settings.edge_weight * edges + settings.kl_weight * kl
    return total, {"psnr": psnr(y.detach(), x), "kl": kl.item()}


def psnr(y: Tensor, x: Tensor) -> float:
    """Return the PSNR in decibels of pictures in [-1, 1]."""
    return -10 * math.log10(max(1e-9, float(F.mse_loss(y.clamp(-1, 1), x)) / 4))


@torch.inference_mode()
def settle(vae: AutoencoderKL, settings: VaeSettings, pictures: int = 256) -> AutoencoderKL:
    """Measure shift and scale, and set them in the VAE's config.

    With them, latents, which are samples of the posterior, have mean 0 and spread 1. FLUX has
    0.1159 and 0.3611.
    """
    means, variances = [], []
    for index in range(pictures):
        size_px = settings.sizes_px[index % len(settings.sizes_px)]
        example = draw_example(settings.seed, 10**7 + index, size_px)
        x = torch.tensor(example.target).permute(2, 0, 1)[None].float() / 127.5 - 1
        posterior = vae.encode(x.to(vae.device)).latent_dist
        means.append(posterior.mean.flatten())
        variances.append(posterior.var.flatten())
    z = torch.cat(means)
    spread = math.sqrt(z.var().item() + torch.cat(variances).mean().item())
    vae.register_to_config(shift_factor=z.mean().item(), scaling_factor=1 / spread)
    return vae


def load_photos(folder: Path) -> list[np.ndarray]:
    """Return the photographs of a folder, each (H, W, 3) uint8."""
    paths = sorted([*folder.glob("*.jpg"), *folder.glob("*.png")])
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]
