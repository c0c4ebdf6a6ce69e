"""The small VAE. If these break, a training that was cut goes on over other pictures, or latents are
so loud that the denoiser never meets the noise it will start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ace_tasks.evaluation.scoring import score
from ace_tasks.training import vae
from ace_tasks.training.recipe import Recipe
from ace_tasks.training.stages import load_vae, take_vae, train_vae
from ace_tasks.training.vae import PictureBatches, VaeSettings
from ace_tasks.training.world.world_tasks import draw_example
from tests.support.drawn import examples
from tests.support.tiny_training import tiny_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = tiny_recipe(vae_steps=60).vae.model_copy(update={"sizes_px": (32, 64), "batch": 8})


def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = ((40, 90), (300, 200))
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_a_batch_is_a_function_of_the_step() -> None:
    """The pool saves work; which batches were drawn before must not matter."""
    settings = SETTINGS.model_copy(update={"pool": 4})
    one, other = PictureBatches(settings, photos()), PictureBatches(settings, photos())
    for step in range(40):
        one.batch(step)
    for step in (3, 20, 59):
        assert torch.equal(one.batch(step), other.batch(step))
    assert len(one._pool) <= 3 * settings.pool + 1
    assert not torch.equal(one.batch(3), one.batch(5))


def test_pictures_are_crops_first_and_whole_in_the_end() -> None:
    pictures = PictureBatches(SETTINGS, photos())
    crop, pixels = SETTINGS.crop_px, SETTINGS.batch * SETTINGS.crop_px**2
    for step in (0, 1, 47):
        assert pictures.batch(step).shape == (SETTINGS.batch, 3, crop, crop)
    assert pictures.batch(48).shape == (pixels // 32**2, 3, 32, 32)
    assert pictures.batch(49).shape == (1, 3, 64, 64)  # never none
    assert pictures.batch(48).abs().max() <= 1


def test_some_pictures_are_erased_to_the_grey_of_a_masked_area() -> None:
    always = PictureBatches(SETTINGS.model_copy(update={"erased_share": 1.0}), [])
    never = PictureBatches(SETTINGS.model_copy(update={"erased_share": 0.0}), [])

    def grey(pictures: PictureBatches) -> float:
        stacked = torch.stack([pictures.batch(step) for step in range(8)])
        return (stacked - (128 / 127.5 - 1)).abs().amax(dim=2).lt(1e-6).float().mean().item()

    assert grey(always) > 0.2
    assert grey(never) < 0.05  # the world has a little grey of its own


@pytest.mark.thorough
def test_the_loss_falls_and_latents_come_out_at_unit_size(tmp_path: Path) -> None:
    """Latents are samples of the posterior, and its spread is part of theirs."""
    recipe = tiny_recipe().model_copy(update={"vae": SETTINGS})
    losses: list[float] = []
    assert train_vae(recipe, tmp_path, [], lambda _, numbers: losses.append(numbers["loss"]))
    assert np.median(losses[-20:]) < 0.75 * np.median(losses[:5])

    model = vae.AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
    generator = torch.Generator().manual_seed(0)
    found = []
    with torch.inference_mode():
        for number in range(60):
            example = draw_example(77, number, SETTINGS.sizes_px[number % 2])
            x = torch.tensor(example.target).permute(2, 0, 1)[None] / 127.5 - 1
            z = model.encode(x).latent_dist.sample(generator)
            found.append(((z - model.config.shift_factor) * model.config.scaling_factor).flatten())
    latents = torch.cat(found)
    assert latents.mean().item() == pytest.approx(0, abs=0.1)
    assert latents.std().item() == pytest.approx(1, abs=0.1)


def test_photographs_are_read_in_a_fixed_order(tmp_path: Path) -> None:
    for name, level in (("b.png", 200), ("a.png", 100), ("c.txt", 0)):
        Image.new("L", (40, 30), level).save(tmp_path / name, "PNG")
    assert [photo[0, 0].tolist() for photo in vae.load_photos(tmp_path)] == [[100] * 3, [200] * 3]


def test_a_photograph_smaller_than_a_crop_still_serves() -> None:
    rng = np.random.default_rng(0)
    small = np.zeros((20, 50, 3), np.uint8)
    for _ in range(20):
        assert min(vae._shrunk(small, rng, 32).shape[:2]) >= 32


def test_sizes_that_make_no_crop_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8, at least 32 px"):
        VaeSettings(sizes_px=(24,))


def test_the_vae_that_comes_with_mini_keeps_what_edits_are_judged_by(tmp_path: Path) -> None:
    """It is the ceiling of everything after it: if a round trip spoils a picture, no training of
    the rest can make the edit succeed."""
    recipe = Recipe.read("mini-64")
    assert take_vae(recipe, tmp_path)
    model = load_vae(tmp_path)
    for size_px, least_db in ((64, 29), (128, 33)):
        scores = []
        for example in examples(99, 12, size_px, split="test"):
            x = torch.tensor(example.target).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.inference_mode():
                y = model.decode(model.encode(x).latent_dist.mean).sample[0]
            picture = ((y.permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round()
            scores.append(score(example, picture.to(torch.uint8).numpy()))
        assert all(each.success for each in scores)
        assert sum(each.psnr for each in scores) / len(scores) > least_db
