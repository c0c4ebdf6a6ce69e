"""Small text encoders. If these break, a colour's name falls apart into letters, or a prompt means
one thing in training and another to the loaded model."""

from __future__ import annotations

import string

import pytest
import torch

from ace_tasks.model import text
from ace_tasks.training.small import SmallSettings, Tokenizers, Trained
from ace_tasks.training.world.grammar import VOCABULARY
from tests.support.tiny_training import tiny_recipe

SETTINGS = tiny_recipe().small


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    return Tokenizers.make(SETTINGS, VOCABULARY)


def test_every_word_of_the_world_is_one_token(tokenizers: Tokenizers) -> None:
    for word in VOCABULARY:
        for phrase in (word, f"a {word} mug"):
            assert tokenizers.t5.tokenize(phrase) == [f"▁{each}" for each in phrase.split()]


def test_other_words_fall_apart_into_letters_and_come_back(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers.t5
    for phrase in ("Zebra crossing", "it's 3.5 EUR off, <b>{x}</b>", "xredx"):
        ids = tokenizer(phrase).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == phrase
        assert tokenizer.unk_token_id not in ids
    assert tokenizer.tokenize("yak") == ["▁", *"yak"]
    assert tokenizer.tokenize("mugs") == ["▁mug", "s"]


def test_no_printable_character_is_unknown(tokenizers: Tokenizers) -> None:
    printable = "".join(c for c in string.printable if not c.isspace())
    for tokenizer in (tokenizers.t5, tokenizers.clip):
        for phrase in (printable, " ".join(printable)):
            assert tokenizer.unk_token not in tokenizer.tokenize(phrase)


def test_t5_has_rows_for_every_special_token_and_ids_stay(tokenizers: Tokenizers) -> None:
    """Special tokens come in when the variant is loaded, after it was trained without them."""
    prompts = ["", *(f"a {word} mug" for word in VOCABULARY)]
    before, _ = tokenizers.tokens(prompts)
    loaded = Tokenizers.make(SETTINGS, VOCABULARY)
    t5 = Trained.make(SETTINGS, loaded).t5
    assert t5 is not None
    text.add_special_tokens(loaded.t5, t5, "fft")
    after, _ = loaded.tokens(prompts)
    assert torch.equal(before, after)
    assert t5.get_input_embeddings().num_embeddings == len(loaded.t5)


def test_prompts_have_fixed_lengths(tokenizers: Tokenizers) -> None:
    t5, clip = tokenizers.tokens(["", "a red mug", "word " * 100])
    assert t5.shape == (3, SETTINGS.text_tokens)
    assert clip.shape == (3, text.CLIP_TOKENS)
    assert (t5[0, 1:] == tokenizers.t5.pad_token_id).all()


def test_prompts_are_cleaned_as_they_will_be_for_the_loaded_model(tokenizers: Tokenizers) -> None:
    clean, _ = tokenizers.tokens(["a <red> mug"])
    dirty, _ = tokenizers.tokens(["  a &lt;red&gt;\n mug"])
    assert torch.equal(clean, dirty)
    as_it_is = Tokenizers(tokenizers.clip, tokenizers.t5, tokenizers.text_tokens, clean=False)
    assert not torch.equal(as_it_is.tokens(["a &lt;red&gt; mug"])[0], clean)


def test_the_prompt_reaches_the_velocity_by_both_encoders(tokenizers: Tokenizers) -> None:
    trained = Trained.make(SETTINGS, tokenizers)
    ids, clip = tokenizers.tokens(["a red mug", "a blue mug"])
    tokens = torch.zeros(1, 4, SETTINGS.channels)
    one, grid = torch.ones(1), torch.zeros(4, 3)
    with torch.inference_mode():
        red, other_t5, other_clip = (
            trained(tokens, one, one, ids[i : i + 1], clip[j : j + 1], grid)
            for i, j in ((0, 0), (1, 0), (0, 1))
        )
    assert not torch.equal(red, other_t5)
    assert not torch.equal(red, other_clip)


def test_what_encoders_returned_stands_for_them(tokenizers: Tokenizers) -> None:
    """A model without encoders of its own takes hidden states in place of tokens."""
    trained = Trained.make(SETTINGS, tokenizers)
    ids, clip = tokenizers.tokens(["a red mug"])
    tokens, one, grid = torch.zeros(1, 4, SETTINGS.channels), torch.ones(1), torch.zeros(4, 3)
    with torch.inference_mode():
        assert trained.t5 is not None
        assert trained.clip is not None
        states = trained.t5(ids)[0], trained.clip(clip).pooler_output
        alone = Trained(trained.transformer)
        expected = trained(tokens, one, one, ids, clip, grid)
        assert torch.equal(alone(tokens, one, one, *states, grid), expected)


def test_the_same_seed_makes_the_same_weights(tokenizers: Tokenizers) -> None:
    one, other = (Trained.make(SETTINGS, tokenizers).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    other_seed = SmallSettings(**SETTINGS.model_dump() | {"seed": 9})
    third = Trained.make(other_seed, tokenizers).state_dict()
    assert any(not torch.equal(one[key], third[key]) for key in one)
