"""Pictures from the toy variants: each depends on its item alone. If these break, a rerun of one
item gives another picture than the run before, or guidance 50 arrives as 49.92."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ace_tasks.errors import Cancelled, WeightsError
from ace_tasks.lcu.canvas import LCU, Inputs
from ace_tasks.lcu.policies import build_canvas
from ace_tasks.model import sampling, weights
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.variants import Variant, find_variant
from ace_tasks.settings import WeightsSettings

NAMES = ("toy", "toy-lora")


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, weights_dir: Path) -> AceModel:
    return load(request.param, weights_dir)


def load(name: str, weights_dir: Path, **options: Any) -> AceModel:
    settings = WeightsSettings(folder=weights_dir)
    return AceModel.load(find_variant(name), settings, "cpu", **options)


def make_unit(variant: Variant, seed: int = 0, width: int = 64, height: int = 48) -> LCU:
    """A noise picture, its left half masked."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    unit, _ = build_canvas(
        Inputs(
            image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            mask=mask,
            references=(),
            width=0,
            height=0,
            max_seq_len=variant.max_seq_len,
            repainting_scale=1.0,
            keep_pixels_rate=None,
            use_change=variant.route == "fft",
        )
    )
    return unit


def make_job(model: AceModel, picture: int = 0, width: int = 64, **changes: Any) -> ModelJob:
    settings: dict[str, Any] = {"prompt": "a red cup", "seed": 1, "steps": 3, "guidance": 50.0}
    return ModelJob(make_unit(model.variant, picture, width), **settings | changes)


def edit(model: AceModel, picture: int = 0, width: int = 64, **changes: Any) -> np.ndarray:
    return model.generate([make_job(model, picture, width, **changes)])[0]


def test_a_picture_has_the_canvas_size_and_is_no_flat_colour(model: AceModel) -> None:
    pixels = edit(model)
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 1


def test_the_same_item_gives_the_same_pixels(model: AceModel, weights_dir: Path) -> None:
    first = edit(model)
    assert np.array_equal(edit(model), first)
    assert np.array_equal(edit(load(model.variant.name, weights_dir)), first)


def test_seed_prompt_picture_and_settings_all_count(model: AceModel) -> None:
    first = edit(model)
    others: list[dict[str, Any]] = [
        {"seed": 2},
        {"prompt": "a blue cup"},
        {"picture": 1},
        {"steps": 4},
        {"guidance": 1.0},
    ]
    for change in others:
        assert not np.array_equal(edit(model, **change), first), change


def test_neither_neighbours_nor_cached_prompts_change_an_item(
    model: AceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [
        make_job(model, seed, width, prompt=prompt, seed=seed)
        for seed, (width, prompt) in enumerate(
            [(64, "a red cup"), (96, "a blue cup"), (64, "a red cup"), (48, "")]
        )
    ]

    def run(order: list[ModelJob]) -> list[np.ndarray]:
        return [model.generate([job])[0] for job in order]

    model.text._texts.clear()
    forward = run(jobs)
    torch.manual_seed(99)  # nothing is drawn from the global generator
    backward = run(jobs[::-1])
    monkeypatch.setattr("ace_tasks.model.text._CACHED_PROMPTS", 0)
    uncached = run(jobs)
    for one, other, third in zip(forward, reversed(backward), uncached, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, third)


def test_a_batch_gives_each_item_its_own_picture(model: AceModel) -> None:
    """Prompt, seed, guidance and picture stay with their item; only rounding may differ."""
    jobs = [
        make_job(model, n, prompt=f"cup {n}", seed=n, guidance=guidance)
        for n, guidance in enumerate((50.0, 1.0, 30.0, 50.0))
    ]
    alone = [model.generate([job])[0].astype(int) for job in jobs]
    together = [each.astype(int) for each in model.generate(jobs)]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1
    assert np.abs(alone[0] - alone[3]).max() > 50


def test_a_batch_of_two_shapes_is_refused(model: AceModel) -> None:
    for other in ({"width": 96}, {"steps": 2}, {"adapter": "subject"}):
        with pytest.raises(ValueError, match="one shape"):
            model.generate([make_job(model), make_job(model, **other)])  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["cancelled", "out of memory"])
def test_what_interrupts_a_batch_leaves_the_model_as_it_was(model: AceModel, mode: str) -> None:
    expected = edit(model)
    calls = 0

    def interrupt() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Cancelled("enough") if mode == "cancelled" else torch.OutOfMemoryError("full")

    jobs = [make_job(model), make_job(model, seed=5, guidance=1.0)]
    with pytest.raises((Cancelled, torch.OutOfMemoryError)):
        model.generate(jobs, interrupt)
    assert calls == 2  # at once, not at the end
    embedder = model.parts.transformer.time_text_embed
    assert not embedder._forward_pre_hooks
    assert np.array_equal(edit(model), expected)


def test_the_two_routes_are_distinguished_by_their_channels(weights_dir: Path) -> None:
    models = [load(name, weights_dir) for name in NAMES]
    assert [each.parts.transformer.config.in_channels for each in models] == [448, 384]


@pytest.mark.parametrize("name", NAMES)
def test_in_bf16_guidance_and_time_arrive_as_upstream_has_them(
    name: str, weights_dir: Path
) -> None:
    """ACE_SPEC 4: diffusers alone rounds 50 000 to 49 920; time is bf16(1000 · bf16(sigma))."""
    variant = find_variant(name).model_copy(update={"dtype": "bfloat16"})
    folder = weights.ensure(find_variant(name), WeightsSettings(folder=weights_dir))
    model = AceModel(variant, weights.load(variant, folder, "cpu"), "cpu", variant.identity())
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    model.parts.transformer.time_text_embed.time_proj.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])  # type: ignore[func-returns-value]
    )
    jobs = [make_job(model), make_job(model, guidance=3.5)]
    assert all(np.isfinite(each).all() for each in model.generate(jobs))
    times, guidances = seen[::2], seen[1::2]
    assert all(each.dtype == torch.float32 for each in guidances)  # type: ignore[attr-defined]
    assert guidances[0].tolist() == [50_000.0, 3_500.0]  # type: ignore[attr-defined]
    sigmas = model_sigmas(jobs[0])
    expected = [float((torch.tensor(s).bfloat16() * 1000).float()) for s in sigmas]
    assert [each[0].item() for each in times] == expected
    assert expected != [1000 * s for s in sigmas]


def model_sigmas(job: ModelJob) -> list[float]:
    _, height, width = job.lcu.mask_1HW.shape
    return sampling.sigmas(job.steps, height // 16 * (width // 16)).tolist()[:-1]


def test_other_weights_than_planned_are_refused(weights_dir: Path) -> None:
    """Their pictures would be filed under identities of other weights."""
    planned = find_variant("toy").identity().fingerprint
    assert load("toy", weights_dir, planned=planned)
    with pytest.raises(WeightsError, match="other weights than the run was planned for"):
        load("toy-lora", weights_dir, planned=planned)
