"""ACE++ on diffusers' classes: VAE, denoise loop, and decoding to pixels (ACE_SPEC 3-5).

The denoise loop is written here because FluxFillPipeline takes no masked latents, encodes twice
and shifts the generator. Each item has a CPU generator of its own, which is drawn from in a fixed
order, so that a picture depends on its item alone.

Legend: B batch, C channels, H W latent height and width, N image tokens, D features.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ace_tasks.errors import BadOutput, WeightsError
from ace_tasks.lcu.canvas import LCU
from ace_tasks.model import sampling, sources, weights
from ace_tasks.model.adapters import Adapters, Mode
from ace_tasks.model.compile_cache import keep_compiled
from ace_tasks.model.fast_path import FastPath, can_use_fp8
from ace_tasks.model.faults import in_one_line, is_device_lost
from ace_tasks.model.fit import STREAMED, MemoryMode
from ace_tasks.model.one_pass import Velocity, one_pass
from ace_tasks.model.residence import Residence
from ace_tasks.model.speed import (
    Speed,
    attention_of,
    compile_blocks,
    is_compiled,
    run_eagerly,
    use_best_attention,
)
from ace_tasks.model.text import Text, TextEncoder
from ace_tasks.model.variants import Variant
from ace_tasks.settings import WeightsSettings
from ace_tasks.specs import ModelIdentity, Shortcuts

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ModelJob:
    """One picture to make: the canvas and the settings that decide its pixels."""

    lcu: LCU
    prompt: str
    seed: int
    steps: int
    guidance: float
    adapter: str | None = None
    shortcuts: Shortcuts | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """Jobs of one shape may share a batch."""
        return (*self.lcu.mask_1HW.shape, self.steps, self.adapter, self.shortcuts)


@dataclass(frozen=True, eq=False)
class Noise:
    """Every random number of one item, float32, each (1, 16, H, W)."""

    eps_edit: torch.Tensor
    eps_change: torch.Tensor | None
    start: torch.Tensor

    @classmethod
    def draw(cls, lcu: LCU, seed: int) -> Noise:
        """Draw the VAE samples, then the start: the order of upstream's LoRA route."""
        generator = torch.Generator("cpu").manual_seed(seed)
        height, width = lcu.mask_1HW.shape[1:]
        shape = (1, 16, height // sampling.VAE_FACTOR, width // sampling.VAE_FACTOR)
        eps_edit = torch.randn(shape, generator=generator)
        eps_change = torch.randn(shape, generator=generator) if lcu.change_CHW is not None else None
        return cls(eps_edit, eps_change, torch.randn(shape, generator=generator))


class AceModel:
    """One loaded variant. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        variant: Variant,
        parts: weights.Parts,
        device: str,
        identity: ModelIdentity,
        adapter_mode: Mode = "resident",
        speed: Speed = "exact",
    ):
        """`speed` compiled, and fast on a GPU: the blocks are compiled here, which takes a minute;
        where they cannot be, a warning says why, and operations run one by one.
        """
        self.variant = variant
        self.parts = parts
        self.device = device
        self.identity = identity
        self.memory: MemoryMode = parts.fit.mode
        self.speed: Speed = speed
        self.fast_path = FastPath(parts.transformer)
        fp8 = (
            speed == "fast"
            and parts.fit.mode not in STREAMED
            and can_use_fp8(parts.transformer, device)
        )
        if fp8:
            adapter_mode = "resident"  # nothing can be added into weights in fp8
        compiled = is_compiled(speed, device)
        adapters_speed: Speed = "compiled" if compiled else "exact"
        self.adapters = Adapters(parts.transformer, parts.adapters, adapter_mode, adapters_speed)
        self.residence = Residence((parts.clip, parts.t5), parts.transformer, device, parts.fit)
        self.text = TextEncoder(variant, parts, device)
        if fp8:
            self.residence.settle(self.memory)
        if compiled:
            if speed == "fast":
                self.fast_path.prepare(fp8=fp8)
            self._compile(adapter_mode)
        self.residence.settle(self.memory)

    @classmethod
    def load(
        cls,
        variant: Variant,
        settings: WeightsSettings,
        device: str,
        *,
        adapter_mode: Mode = "resident",
        speed: Speed = "exact",
        planned: str | None = None,
    ) -> AceModel:
        """Fetch or find the variant's files on this node and load them.

        `planned` is the fingerprint of the model that a plan was made for. Raises WeightsError,
        also for another fingerprint, whose pictures would be filed under the wrong identity.
        """
        folder = weights.ensure(variant, settings)
        identity = sources.identify_folder(variant, folder)
        if planned not in (None, identity.fingerprint):
            raise WeightsError(f"{folder}: other weights than the run was planned for")
        try:
            parts = weights.load(variant, folder, device, settings.memory)
        except WeightsError as error:
            hint = f"; this is the node's copy: delete {folder} to get it again"
            raise WeightsError(
                f"{error}{hint if folder.parent == settings.folder else ''}"
            ) from None
        if is_compiled(speed, device):
            keep_compiled(settings.folder, device)
        return cls(variant, parts, device, identity, adapter_mode, speed)

    @property
    def attention(self) -> str:
        """The backend of the transformer's attention, as diffusers calls it."""
        return attention_of(self.parts.transformer)

    def _compile(self, adapter_mode: Mode) -> None:
        transformer = self.parts.transformer
        try:
            compile_blocks(transformer)
            self.residence.settle(self.memory)  # what makes blocks come and go stays outside
            use_best_attention(transformer)
            self.parts.vae.to(memory_format=torch.channels_last)
            self._warm_up()
        except Exception as error:  # no compiler, another driver: whatever a toolchain may lack
            if is_device_lost(error):
                raise
            self.residence.let_go()
            run_eagerly(transformer)
            self.parts.vae.to(memory_format=torch.contiguous_format)
            if self.fast_path.precision:  # without a compiler it is slower than bf16
                log.warning("fp8 failed, so pictures take longer: %s", in_one_line(error))
                self.fast_path.restore()
                self._compile(adapter_mode)
                return
            log.warning(
                "the model was not compiled, so pictures take longer: %s", in_one_line(error)
            )
            self.adapters.remove()
            self.adapters = Adapters(transformer, self.parts.adapters, adapter_mode)
            self.speed = "exact" if self.speed == "compiled" else self.speed

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Compile what items will need: one step with an adapter, and one without.

        The canvas is about as large as an item's may be, for kernels are laid out by the first.
        """
        config, side = self.parts.transformer.config, math.isqrt(self.variant.max_seq_len)
        rows, columns = side - 1, side + 1
        like = {"device": self.device, "dtype": self.parts.transformer.dtype}
        x = torch.zeros(1, 16, 2 * rows, 2 * columns, **like)
        condition = torch.zeros(1, rows * columns, config.in_channels - 64, **like)
        text = self.text.encode("")
        for name in (*sorted(self.adapters.names)[:1], None):
            self.adapters.select(name)
            self.velocity(x, condition, text, 1.0, self.variant.guidance)

    @torch.inference_mode()
    def generate(
        self,
        jobs: Sequence[ModelJob],
        between_steps: Callable[[], None] = lambda: None,
        memory: MemoryMode | None = None,
    ) -> list[np.ndarray]:
        """Return the whole canvas of each job as (H, W, 3) uint8. All jobs have one shape.

        Only the transformer runs the jobs together; the rest runs for each job alone.
        `between_steps` may raise to stop early. `memory` is that of the start unless given. Raises
        ValueError for jobs of several shapes, and BadOutput for NaN or infinite pixels.
        """
        if len({job.shape for job in jobs}) != 1:
            raise ValueError("accepted: jobs of one shape (canvas, steps, adapter, shortcuts)")
        between_steps()
        self.residence.settle(memory or self.memory)
        with self.residence.working():
            x = self._make_latents(jobs, between_steps)
        return [self.to_uint8(self.decode(each[None])) for each in x]

    def _make_latents(
        self, jobs: Sequence[ModelJob], between_steps: Callable[[], None]
    ) -> torch.Tensor:
        """Return the latents of each job's picture, (B, 16, H, W)."""
        text = Text.join([self.text.encode(job.prompt) for job in jobs])
        noises = [Noise.draw(job.lcu, job.seed) for job in jobs]
        conditions = [self.condition(job.lcu, n) for job, n in zip(jobs, noises, strict=True)]
        condition = torch.cat(conditions)
        self.adapters.select(jobs[0].adapter)
        with self.fast_path.taken(jobs[0].shortcuts, jobs[0].steps):
            return self.denoise(
                torch.cat([noise.start for noise in noises]),
                condition,
                text,
                sampling.sigmas(jobs[0].steps, condition.shape[1]),
                torch.tensor([job.guidance for job in jobs], dtype=torch.float32),
                between_steps,
            )

    def _send(self, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the tensor on the device; a GPU takes it while this thread goes on."""
        value = value.to(dtype)
        if self.device == "cuda" and value.device.type == "cpu":
            value = value.pin_memory()
        return value.to(self.device, non_blocking=True)

    def encode_image(self, x_CHW: torch.Tensor, eps_BCHW: torch.Tensor) -> torch.Tensor:
        """Return a sample of the VAE's posterior (not its mode), scaled, (1, 16, H, W)."""
        vae = self.parts.vae
        posterior = vae.encode(self._send(x_CHW[None], vae.dtype)).latent_dist
        sample: torch.Tensor = posterior.mean + posterior.std * self._send(eps_BCHW, vae.dtype)
        shift, scale = float(vae.config.shift_factor), float(vae.config.scaling_factor)
        return (sample - shift) * scale

    def condition(self, lcu: LCU, noise: Noise) -> torch.Tensor:
        """Return what follows the noise in each token, packed as (1, N, D).

        It is the edit, on the 448-channel route the change, and the mask.
        """
        latents = [self.encode_image(lcu.edit_CHW, noise.eps_edit)]
        if lcu.change_CHW is not None:
            assert noise.eps_change is not None
            latents.append(self.encode_image(lcu.change_CHW, noise.eps_change))
        mask = self._send(sampling.mask_latents(lcu.mask_1HW[None]), latents[0].dtype)
        return torch.cat([sampling.pack(each) for each in (*latents, mask)], dim=-1)

    def velocity(
        self,
        x_BCHW: torch.Tensor,
        condition_BND: torch.Tensor,
        text: Text,
        sigma: float,
        guidance: float | torch.Tensor,
    ) -> torch.Tensor:
        """Return the transformer's v = noise - x0 at one noise level, (B, 16, H, W).

        `guidance` is one number, or (B,).
        """
        with self._pass(x_BCHW, condition_BND, text, guidance) as velocity:
            return velocity(x_BCHW, sigma)

    def _pass(
        self,
        x_BCHW: torch.Tensor,
        condition_BND: torch.Tensor,
        text: Text,
        guidance: float | torch.Tensor,
    ) -> AbstractContextManager[Velocity]:
        b, _, h, w = x_BCHW.shape
        exact_B = torch.as_tensor(guidance, dtype=torch.float32).expand(b).to(self.device)
        return one_pass(self.parts.transformer, condition_BND, text, exact_B, (h, w))

    def denoise(
        self,
        start_BCHW: torch.Tensor,
        condition_BND: torch.Tensor,
        text: Text,
        sigmas: torch.Tensor,
        guidance: float | torch.Tensor,
        between_steps: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Go from noise to latents by Euler steps, (B, 16, H, W).

        `between_steps` is called before each step.
        """
        x = self._send(start_BCHW, self.parts.transformer.dtype)
        with self._pass(x, condition_BND, text, guidance) as velocity:
            for sigma, next_sigma in pairwise(sigmas.tolist()):
                between_steps()
                x = sampling.euler_step(x, velocity(x, sigma), sigma, next_sigma)
        return x

    def decode(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Decode latents to (H, W, 3) float32 in [0, 1]. Raises BadOutput."""
        vae = self.parts.vae
        z = (x_BCHW / vae.config.scaling_factor + vae.config.shift_factor).to(vae.dtype)
        pixels: torch.Tensor = vae.decode(z, return_dict=False)[0][0].float()
        if not torch.isfinite(pixels).all():  # it would be published as black
            raise BadOutput("the model made NaN or infinite pixels")
        return ((pixels + 1) / 2).clamp(0, 1).permute(1, 2, 0)

    def to_uint8(self, pixels_HWC: torch.Tensor) -> np.ndarray:
        """Truncate on the FFT route, round on the LoRA route, as upstream does."""
        levels: torch.Tensor = pixels_HWC * 255
        levels = levels if self.variant.route == "fft" else levels.round()
        return levels.to(torch.uint8).cpu().numpy()
