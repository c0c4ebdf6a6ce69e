"""A training that starts from a variant. If these break, hours of training are thrown away at the
first step of the next, or encoders that were to stay as they are have changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ace_tasks.errors import SettingsError
from ace_tasks.model import places, sources
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import WeightsSettings
from ace_tasks.training import latents, stages
from ace_tasks.training.export import export
from ace_tasks.training.loop import saved_step
from ace_tasks.training.preview import preview
from ace_tasks.training.recipe import Recipe, describe, open_start
from ace_tasks.training.stages import make_model, train_denoiser
from ace_tasks.training.start import Start
from ace_tasks.training.texts import Texts
from ace_tasks.training.world.world_tasks import draw_example
from tests.support.releases import make_release
from tests.support.tiny_training import (
    begin,
    encode_all,
    go_on,
    go_on_from,
    load_variant,
    quiet,
    tiny_recipe,
    train_from_nothing,
    write_recipe,
)

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = {"data": {"sizes_px": [64], "examples": 16, "chunk": 8}}
LARGER = {"data": {"sizes_px": [96], "examples": 16, "chunk": 8}}


@pytest.fixture(scope="module")
def ours(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A variant that was trained here, from nothing, at 64 px."""
    return train_from_nothing(tiny_recipe(), tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's variant of 384 channels, with adapters."""
    return make_release(tmp_path_factory.mktemp("theirs"), "toy-lora")


@pytest.fixture(scope="module")
def larger(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder: ours, trained on at 96 px."""
    work = tmp_path_factory.mktemp("larger")
    go_on(go_on_from(ours, **LARGER), work)
    return work


def files(folder: Path, *names: str) -> dict[str, str]:
    """Hashes of what lies in some of a variant's folders."""
    hashes = places.hash_folder(folder)
    return {path: each for path, each in hashes.items() if path.split("/")[0] in names}


# ---------------------------------------------------------------- a variant of ours


def test_the_first_step_sees_the_model_that_was(ours: Path, tmp_path: Path) -> None:
    recipe = go_on_from(ours, **LARGER)
    begin(recipe, tmp_path)
    model, learns = make_model(recipe, tmp_path)
    assert learns is model
    assert model.clip is not None
    assert model.t5 is not None
    was = load_variant(ours).parts
    for now, before in (
        (model.transformer, was.transformer),
        (model.clip, was.clip),
        (model.t5, was.t5),
    ):
        state = before.state_dict()
        assert state.keys() == now.state_dict().keys()
        assert all(torch.equal(value, state[key]) for key, value in now.state_dict().items())
    assert all(value.requires_grad for value in model.parameters())


def test_everything_that_learnt_goes_on_learning_and_the_rest_is_the_same(
    ours: Path, larger: Path
) -> None:
    after = larger / "variant"
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        weights = [files(each, name)[f"{name}/{_file(name)}"] for each in (ours, after)]
        assert weights[0] != weights[1], name
        config = f"{name}/config.json"
        one, other = (json.loads((each / config).read_text()) for each in (ours, after))
        assert one == other
    same = ("vae", "tokenizer", "tokenizer_2")
    assert files(ours, *same) == files(after, *same)
    assert not (larger / "latents" / "texts").exists()


def _file(name: str) -> str:
    return "diffusion_pytorch_model.safetensors" if name == "transformer" else "model.safetensors"


def test_the_new_variant_works_at_the_new_size(ours: Path, larger: Path) -> None:
    model = load_variant(larger / "variant")
    was = load_variant(ours).variant
    assert (model.variant.width_px, model.variant.max_seq_len) == (96, 72)
    same = {"name", "summary", "route", "guidance", "text_tokens", "dtype", "steps", "transformer"}
    assert was.model_dump(include=same) == model.variant.model_dump(include=same)
    example = draw_example(5, 0, 96, split="test", tasks=("try_on",))
    answer = preview(model, example)
    assert answer.shape == example.target.shape
    assert not np.array_equal(answer, preview(load_variant(ours), example))


def test_cut_and_resumed_it_makes_the_same_weights(
    ours: Path, larger: Path, tmp_path: Path
) -> None:
    recipe = go_on_from(ours, **LARGER)
    begin(recipe, tmp_path)
    encode_all(recipe, tmp_path)
    path = tmp_path / "denoiser.pt"
    assert not train_denoiser(recipe, tmp_path, quiet, lambda: saved_step(path) >= 4)
    assert train_denoiser(recipe, tmp_path, quiet)
    one, other = (torch.load(each / "denoiser.pt")["averaged"] for each in (larger, tmp_path))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_it_says_what_it_started_from_and_nothing_of_the_machine(ours: Path, larger: Path) -> None:
    story = json.loads((larger / "variant" / "training.json").read_text())
    settings = WeightsSettings(folder=larger)
    identity = sources.identify(sources.open_variant(str(ours), settings), settings)
    expected = {"variant": "tiny", "base": identity.base, "encoders": identity.encoders}
    assert story["started_from"] == expected
    assert story["learn_text"]
    assert Recipe.model_validate(story["recipe"]).data == go_on_from(ours, **LARGER).data
    for path in (larger / "variant").rglob("*"):
        if path.is_file():
            for place in (ours.parent, larger):
                assert str(place).encode() not in path.read_bytes(), path


# ---------------------------------------------------------------- somebody else's


def test_384_channels_become_448_that_answer_alike(theirs: Path, tmp_path: Path) -> None:
    begin(go_on_from(theirs), tmp_path / "narrow")
    recipe = go_on_from(theirs, channels=448)
    assert begin(recipe, tmp_path / "wide").variant.channels == 448
    narrow, _ = make_model(go_on_from(theirs), tmp_path / "narrow")
    wide, _ = make_model(recipe, tmp_path / "wide")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 12, 448, generator=generator)
    fewer = torch.cat([tokens[..., :128], tokens[..., 192:]], dim=-1)
    hidden = torch.randn(2, 16, 32, generator=generator)
    pooled, one = torch.randn(2, 32, generator=generator), torch.ones(2)
    with torch.inference_mode():
        found, expected = (
            model(each, 0.5 * one, one, hidden, pooled, torch.zeros(12, 3))
            for model, each in ((wide, tokens), (narrow, fewer))
        )
    assert torch.allclose(found, expected, atol=1e-6)
    change = wide.transformer.x_embedder.weight[:, 128:192]
    assert not change.any()
    assert change.shape == (32, 64)


@pytest.mark.parametrize("channels", [384, 448])
def test_either_width_learns_and_loads_again(theirs: Path, tmp_path: Path, channels: int) -> None:
    recipe = go_on_from(theirs, channels=channels, **FEW)
    folder = go_on(recipe, tmp_path)
    model = load_variant(folder)
    assert model.variant.route == ("lora" if channels == 384 else "fft")
    weight = model.parts.transformer.x_embedder.weight
    assert weight.shape[1] == channels
    assert model.variant.adapters == {}  # they were of other weights
    if channels == 448:
        assert weight[:, 128:192].any()  # learnt from nothing
    found = latents.load(tmp_path / "latents", recipe.data)
    assert {each.change_BCHW.shape[1] for each in found} == {16 if channels == 448 else 0}
    example = draw_example(5, 0, 64, split="test", tasks=("recolour",))
    assert preview(model, example).shape == example.target.shape


def test_their_encoders_stay_and_speak_once(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = go_on_from(theirs)
    begin(recipe, tmp_path)
    encode_all(recipe, tmp_path)
    spoken = list((tmp_path / "latents" / "texts").iterdir())
    found = latents.load(tmp_path / "latents", recipe.data)
    prompts = {
        t5.tobytes() + clip.tobytes()
        for each in found
        for t5, clip in zip(each.t5_BT, each.clip_BT, strict=True)
    }
    assert len(spoken) == len(prompts) > 10

    def load_all(*_: object, **__: object) -> None:
        pytest.fail("the encoders are not needed any more")

    monkeypatch.setattr(Start, "load", load_all)
    assert train_denoiser(recipe, tmp_path, quiet)
    keys = torch.load(tmp_path / "denoiser.pt")["model"]
    assert all(key.startswith("transformer.") for key in keys)
    export(recipe, tmp_path, tmp_path / "variant")
    same = ("vae", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    assert files(theirs, *same) == files(tmp_path / "variant", *same)


def test_training_hears_what_the_loaded_model_will_hear(theirs: Path, tmp_path: Path) -> None:
    recipe = go_on_from(theirs)
    begin(recipe, tmp_path)
    encoder = stages.make_encoder(recipe, tmp_path)
    t5, clip = encoder.tokenizers.tokens(["a red  mug"])
    encoder.on_prompt("a red  mug", t5[0].numpy(), clip[0].numpy())
    one = latents.encode_nothing(encoder.tokenizers)
    batch = replace(one, t5_BT=t5.numpy(), clip_BT=clip.numpy())
    heard = Texts(tmp_path / "latents").fill(batch)
    text = load_variant(theirs).text.encode("a red  mug")
    assert np.allclose(heard.t5_BT, text.hidden_BTD, atol=2e-3)
    assert np.allclose(heard.clip_BT, text.pooled_BD, atol=2e-3)


def test_encoders_learn_if_asked_to(theirs: Path, tmp_path: Path) -> None:
    folder = go_on(go_on_from(theirs, learn_text=True, **FEW), tmp_path)
    for name in ("text_encoder", "text_encoder_2"):
        assert files(theirs, name) != files(folder, name)
    load_variant(folder)


# ---------------------------------------------------------------- recipes


def test_its_place_is_named_after_what_it_starts_from(
    ours: Path, theirs: Path, tmp_path: Path
) -> None:
    def mark(place: Path) -> str:
        recipe = go_on_from(place)
        start = open_start(recipe, WeightsSettings(folder=tmp_path))
        assert start
        return recipe.fingerprint_from(start.base, start.encoders)

    moved = shutil.copytree(ours, tmp_path / "moved")
    assert mark(ours) == mark(moved)
    assert mark(ours) != mark(theirs)
    assert go_on_from(ours).fingerprint != tiny_recipe().fingerprint


def test_a_recipe_may_be_given_a_start(ours: Path, tmp_path: Path) -> None:
    """The variant's parts replace the recipe's; without `start_from` a recipe stays as it is."""
    path = write_recipe(tmp_path / "tiny.json", tiny_recipe())
    assert Recipe.read(str(path)).given() == tiny_recipe()
    recipe = Recipe.read(str(path)).given(start_from=str(ours))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe  # as workers are told
    assert recipe.start_from == str(ours)
    assert (recipe.data, recipe.loop) == (tiny_recipe().data, tiny_recipe().loop)
    assert recipe.vae == Recipe(name="a", summary="").vae
    mini = Recipe.read("mini")
    assert mini.given(start_from="s3://models/mini-64").start_from == "s3://models/mini-64"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": "toy", "vae_from": "mini-vae"}, "vae_from: not accepted with start_from"),
        ({"start_from": "toy", "small": {"blocks": 1}}, "small: not accepted with start_from"),
        ({"channels": 448}, "channels: needs start_from"),
        ({"lora": {"rank": 4}}, "lora: needs start_from"),
        ({"start_from": "toy", "lora": {}, "learn_text": True}, "learn_text: a LoRA"),
    ],
    ids=["vae", "small", "channels", "lora", "text"],
)
def test_a_recipe_with_two_beginnings_says_so(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"name": "a", "summary": ""} | changes))
    with pytest.raises(SettingsError, match=message):
        Recipe.read(str(path))


def test_what_a_variant_cannot_be_is_known_before_its_weights_are_fetched(tmp_path: Path) -> None:
    settings = WeightsSettings(folder=tmp_path)
    with pytest.raises(SettingsError, match=r"channels: accepted: 448, as 'toy' has"):
        Start.open("toy", settings, 384, None)
    with pytest.raises(SettingsError, match="Non-Commercial License"):
        Start.open("flux-fill-lora", settings, 448, None)
    with pytest.raises(SettingsError, match=r"accepted: .*toy-lora"):
        Start.open("grand", settings, None, None)
    assert not list(tmp_path.iterdir())


def test_a_work_folder_that_was_not_begun_says_so(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not begun yet"):
        make_model(go_on_from(ours), tmp_path)


def test_the_published_variants_keep_their_terms_and_numbers(ours: Path) -> None:
    """A variant that is made from licensed weights is under the same licence."""
    base = find_variant("flux-fill-lora")
    wide = base.model_copy(update={"route": "fft"})
    recipe = go_on_from("flux-fill-lora", channels=448, data={"catalog": "s3://a/b.csv"})
    made = describe(recipe, Start(variant=wide, base="", encoders=""))
    assert made.license == base.license
    assert (made.steps, made.guidance, made.text_tokens, made.dtype) == (28, 50.0, 512, "bfloat16")
    assert (made.width_px, made.max_seq_len) == (1024, 4096)
    assert made.hub == ()
    assert made.home is None
