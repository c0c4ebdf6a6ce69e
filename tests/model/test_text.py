"""Test how each route reads prompts. If these break, published weights see other words than they
were trained on, or a catalog's one instruction is encoded a million times."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import T5EncoderModel

from ace_tasks.errors import WeightsError
from ace_tasks.model import text, weights
from ace_tasks.model.text import SPECIAL_TOKENS, TextEncoder, clean_prompt
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import WeightsSettings

ROUTES = {"toy": "fft", "toy-lora": "lora"}


@pytest.fixture(scope="module", params=ROUTES)
def loaded(request: pytest.FixtureRequest, weights_dir: Path) -> tuple[str, weights.Parts]:
    variant = find_variant(request.param)
    folder = weights.ensure(variant, WeightsSettings(folder=weights_dir))
    return ROUTES[request.param], weights.load(variant, folder, "cpu")


@pytest.fixture
def encoder(loaded: tuple[str, weights.Parts]) -> TextEncoder:
    route, parts = loaded
    name = next(name for name in ROUTES if ROUTES[name] == route)
    return TextEncoder(find_variant(name), parts, "cpu")


CLEANED = {  # name: (as given, as the route reads it)
    "white space": ("a  red\n\tmug ", "a red mug"),
    "entity": ("mugs &amp; cups", "mugs & cups"),
    "entity of an entity": ("mugs &amp;amp; cups", "mugs & cups"),
    "wrong encoding": ("a cafÃ© in {image}", "a café in {image}"),
    "curly quotes": ("\u201ca mug\u201d", '"a mug"'),
    "no-break space": ("a\u00a0mug", "a mug"),
}


@pytest.mark.parametrize(("given", "cleaned"), CLEANED.values(), ids=CLEANED)
def test_the_fft_route_cleans_prompts_as_upstream_does(given: str, cleaned: str) -> None:
    assert clean_prompt(given) == cleaned


def test_only_the_fft_route_cleans(encoder: TextEncoder) -> None:
    cleans = encoder._route == "fft"
    for given, cleaned in (("mugs &amp; cups", "mugs & cups"), ("a“b”", 'a"b"')):
        one, other = encoder.encode(given), encoder.encode(cleaned)
        assert torch.equal(one.hidden_BTD, other.hidden_BTD) == cleans
        assert torch.equal(one.pooled_BD, other.pooled_BD) == cleans


def test_special_tokens_are_single_ones_behind_the_tokenizers_own(
    loaded: tuple[str, weights.Parts],
) -> None:
    route, parts = loaded
    tokenizer = parts.t5_tokenizer
    added = SPECIAL_TOKENS[route]
    ids = tokenizer.convert_tokens_to_ids(list(added))
    base = len(tokenizer) - len(added)
    assert ids == list(range(base, base + len(added)))
    # ACE_SPEC 6: `{image}` is base + 1 among the fourteen, base + 0 alone.
    assert tokenizer.convert_tokens_to_ids("{image}") == base + (1 if route == "fft" else 0)
    found = tokenizer("a mug in {image}").input_ids
    assert ids[added.index("{image}")] in found
    assert ("{image1}" in added) == (route == "fft")


def test_an_encoder_without_rows_for_them_is_refused(loaded: tuple[str, weights.Parts]) -> None:
    route, parts = loaded
    config = parts.t5.config.__class__.from_dict(
        parts.t5.config.to_dict() | {"vocab_size": len(parts.t5_tokenizer) - 1}
    )
    with pytest.raises(WeightsError, match="embeddings, but token"):
        text.add_special_tokens(parts.t5_tokenizer, T5EncoderModel(config), route)


def test_lengths_are_fixed_and_long_prompts_cut(encoder: TextEncoder) -> None:
    for prompt in ("", "mug", "mug " * 400):
        encoded = encoder.encode(prompt)
        assert encoded.hidden_BTD.shape == (1, 64, 32)
        assert encoded.pooled_BD.shape == (1, 32)


def test_one_instruction_is_encoded_once(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    really = encoder._ids
    monkeypatch.setattr(encoder, "_ids", lambda *given: (calls.append(given[1]), really(*given))[1])
    first = encoder.encode("make it blue")
    assert all(encoder.encode("make it blue") is first for _ in range(5))
    assert calls == ["make it blue"] * 2  # T5 and CLIP


def test_the_cache_forgets_the_oldest(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ace_tasks.model.text._CACHED_PROMPTS", 2)
    encoder._texts.clear()
    for prompt in ("a", "b", "a", "c"):
        encoder.encode(prompt)
    assert list(encoder._texts) == ["a", "c"]
