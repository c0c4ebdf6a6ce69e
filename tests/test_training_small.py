"""Small text encoders. If these break, a colour's name falls apart into letters, or a prompt means
one thing in training and another to the loaded model."""

from __future__ import annotations

import string

import pytest
import torch

from ace_tasks.model import text
from ace_tasks.training.grammar import VOCABULARY
from ace_tasks.training.small import SmallSettings, Trained
from tests.tiny_training import tiny_recipe

SETTINGS = tiny_recipe().small


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained(SETTINGS, VOCABULARY)


@pytest.mark.parametrize("word", VOCABULARY)
def test_every_word_of_the_world_is_one_token(trained: Trained, word: str) -> None:
    for phrase in (word, f"a {word} mug"):
        tokens = trained.t5_tokenizer.tokenize(phrase)
        assert tokens == [f"▁{each}" for each in phrase.split()]


def test_other_words_fall_apart_into_letters_and_come_back(trained: Trained) -> None:
    tokenizer = trained.t5_tokenizer
    for phrase in ("Zebra crossing", "it's 3.5 EUR off, <b>{x}</b>", "xredx"):
        ids = tokenizer(phrase).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == phrase
        assert tokenizer.unk_token_id not in ids
    assert tokenizer.tokenize("yak") == ["▁", *"yak"]
    assert tokenizer.tokenize("mugs") == ["▁mug", "s"]


def test_no_printable_character_is_unknown(trained: Trained) -> None:
    printable = "".join(c for c in string.printable if not c.isspace())
    for tokenizer in (trained.t5_tokenizer, trained.clip_tokenizer):
        for phrase in (printable, " ".join(printable)):
            assert tokenizer.unk_token not in tokenizer.tokenize(phrase)


def test_t5_has_rows_for_every_special_token_and_ids_stay(trained: Trained) -> None:
    """Special tokens come in when the variant is loaded, after it was trained without them."""
    prompts = ["", *(f"a {word} mug" for word in VOCABULARY)]
    before, _ = trained.tokens(prompts)
    loaded = Trained(SETTINGS, VOCABULARY)
    text.add_special_tokens(loaded.t5_tokenizer, loaded.t5, "fft")
    after, _ = loaded.tokens(prompts)
    assert torch.equal(before, after)
    assert loaded.t5.get_input_embeddings().num_embeddings == len(loaded.t5_tokenizer)


def test_prompts_have_fixed_lengths(trained: Trained) -> None:
    t5, clip = trained.tokens(["", "a red mug", "word " * 100])
    assert t5.shape == (3, SETTINGS.text_tokens)
    assert clip.shape == (3, text.CLIP_TOKENS)
    assert (t5[0, 1:] == trained.t5_tokenizer.pad_token_id).all()


def test_the_prompt_reaches_the_velocity_by_both_encoders(trained: Trained) -> None:
    ids, clip = trained.tokens(["a red mug", "a blue mug"])
    tokens = torch.zeros(1, 4, SETTINGS.channels)
    one, grid = torch.ones(1), torch.zeros(4, 3)
    with torch.inference_mode():
        red, other_t5, other_clip = (
            trained(tokens, one, one, ids[i : i + 1], clip[j : j + 1], grid)
            for i, j in ((0, 0), (1, 0), (0, 1))
        )
    assert not torch.equal(red, other_t5)
    assert not torch.equal(red, other_clip)


def test_the_same_seed_makes_the_same_weights() -> None:
    one, other = (Trained(SETTINGS, VOCABULARY).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    third = Trained(SmallSettings(**SETTINGS.model_dump() | {"seed": 9}), VOCABULARY).state_dict()
    assert any(not torch.equal(one[key], third[key]) for key in one)
