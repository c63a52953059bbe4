"""Prompts, targets and answers as ids; sizes; the public layout on disk."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.plugins.architectures.vita_helpers import (
    NUM_CODES,
    SMALL,
    codes_of,
    lively_policy,
    small_vita,
    spoken,
    write_tokenizer,
)
from wavalign.errors import CheckpointError, DataError
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.vita import VitaAudio, VitaParams
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, TokenSequence, collate
from wavalign.plugins.weights import load_into, read_checkpoint, save_weights


@pytest.fixture
def vita(tmp_path: Path) -> VitaAudio:
    return small_vita(tmp_path)


def names(vita: VitaAudio, row: TokenSequence) -> list[str]:
    """Token names, short ones for the control tokens."""
    short = {
        "<|begin_of_audio|>": "[",
        "<|end_of_audio|>": "]",
        "<|im_start|>": "<",
        "<|im_end|>": ">",
    }
    found = vita.vocabulary.tokenizer.convert_ids_to_tokens(row.ids[0].tolist())
    return [short.get(name, name.removeprefix("<|audio_").removesuffix("|>")) for name in found]


def test_spoken_prompt_is_chatml_without_the_words_of_the_user(vita: VitaAudio) -> None:
    row = vita.encode_prompt(spoken("d", [3, 1], text="w1 w2"), codes_of)
    expected = ["<", "user", "\n", "\n", "[", "3", "1", "]", ">", "\n", "<", "assistant", "\n"]
    assert names(vita, row) == expected
    assert set(row.roles.flatten().tolist()) == {int(Role.PROMPT)}


def test_feeding_the_words_and_a_system_prompt_are_choices(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, feed_user_text=True, system_prompt="w7")
    row = vita.encode_prompt(spoken("d", [3], text="w1 w2"), codes_of)
    opening = ["<", "system", "\n", "w7", ">", "\n", "<", "user", "\n", "w1", "w2", "\n", "[", "3", "]", ">", "\n"]
    assert names(vita, row) == [*opening, "<", "assistant", "\n"]
    own = Dialogue("d", (Message("system", "w8"), Message("user", "w1")))
    assert names(vita, vita.encode_prompt(own, codes_of))[:6] == ["<", "system", "\n", "w8", ">", "\n"]


def test_earlier_answers_stand_in_the_prompt_as_prompt(vita: VitaAudio) -> None:
    turns = (
        Message("user", "w1"),
        Message("assistant", "w2", AudioClip("5,6")),
        Message("user", "w3"),
    )
    row = vita.encode_prompt(Dialogue("d", turns), codes_of)
    told = " ".join(names(vita, row)).replace("\n", "/")
    assert told == "< user / w1 > / < assistant / w2 [ 5 6 ] / > / < user / w3 > / < assistant /".replace("] / >", "/ ] >") or (
        told == "< user / w1 > / < assistant / w2 [ 5 6 ] > / < user / w3 > / < assistant /"
    )
    assert set(row.roles.flatten().tolist()) == {int(Role.PROMPT)}
