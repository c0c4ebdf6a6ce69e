"""One pass over all steps. If these break, each step waits for the device, or does again what the
first one did, and a catalog takes longer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ace_tasks.model import sampling
from ace_tasks.model.text import Text
from tests.model.test_model import NAMES, load, make_job

STEPS = 4


@pytest.mark.parametrize("name", NAMES)
def test_what_steps_share_is_made_once_a_pass(
    name: str, weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(name, weights_dir)
    transformer: Any = model.parts.transformer
    embedder = transformer.time_text_embed
    counts: Counter[str] = Counter()

    def count(owner: Any, attribute: str, what: str) -> None:
        function: Callable[..., Any] = getattr(owner, attribute)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, attribute, counted)

    count(transformer, "forward", "steps")
    count(transformer.context_embedder, "forward", "text")
    count(embedder.text_embedder, "forward", "pooled text")
    count(embedder.guidance_embedder, "forward", "guidance")
    count(transformer.pos_embed, "forward", "rotations")
    count(embedder, "register_forward_pre_hook", "hooks")
    count(sampling, "position_ids", "positions")
    count(sampling, "sigmas", "sigmas")
    count(model.parts.t5, "forward", "t5")
    jobs = [make_job(model, seed, seed=seed, steps=STEPS) for seed in range(2)]
    model.generate(jobs)
    once = ("text", "pooled text", "guidance", "rotations", "hooks", "positions", "sigmas", "t5")
    assert counts == {"steps": STEPS} | dict.fromkeys(once, 1)
    model.generate([make_job(model, 7, prompt="a blue cup", steps=STEPS)])
    assert counts == {"steps": 2 * STEPS} | dict.fromkeys(once, 2)


class HostTensors(TorchDispatchMode):
    """Notes each operation that makes a tensor in the host's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(each, torch.Tensor) and each.device.type == "cpu"
               for each in tree_leaves(made)):  # fmt: skip
            self.made.append(str(func))
        return made


@torch.inference_mode()
def test_no_step_waits_for_its_device_or_is_sent_anything(weights_dir: Path) -> None:
    """On torch's meta device, which has no numbers: reading one back from it raises."""
    model = load("toy-lora", weights_dir)
    transformer: Any = model.parts.transformer.to("meta")
    model.device = "meta"
    height, width, text_tokens = 6, 8, model.variant.text_tokens

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    text = Text(
        empty(2, text_tokens, transformer.config.joint_attention_dim),
        empty(2, transformer.config.pooled_projection_dim),
    )
    condition = empty(2, height * width // 4, transformer.config.in_channels - 64)
    steps: list[int] = []
    with HostTensors() as host:

        def between_steps() -> None:
            steps.append(len(host.made))

        guidance = torch.tensor([50.0, 1.0])
        sigmas = sampling.sigmas(STEPS, 12)
        x = model.denoise(
            empty(2, 16, height, width), condition, text, sigmas, guidance, between_steps
        )
    assert (x.shape, x.device.type) == ((2, 16, height, width), "meta")
    assert steps[0] > 0  # positions and guidance, before the first step
    assert host.made[steps[0] :] == []
    with pytest.raises(RuntimeError):
        x.sum().item()
