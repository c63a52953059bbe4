"""Writes what the contenders share: one network in two folders (the same weights file), and frozen rollouts.

    WORLD/vita/        config.json of type vita without prediction modules, tokenizer, model.safetensors
    WORLD/qwen2/       config.json of transformers' Qwen2, the same tokenizer and model.safetensors
    WORLD/frozen.json  texts, prompts (ids), answers (ids, mask, behaviour log-probs)

The network has random weights, the tokens are random, the first of a completion's tokens are its text. Behaviour
log-probs are those of the weights plus noise, so that ratios differ from 1 and some are clipped from the first step on.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from benchmarks.grpo.point import SIZES, Point
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.vita import VitaAudio, VitaParams
from wavalign.plugins.architectures.vita_audio.sizes import VitaSizes
from wavalign.plugins.architectures.vita_audio.vocabulary import END_TEXT, END_TURN, add_vita_tokens
from wavalign.plugins.batch import Dialogue, Message

WORDS, CODES, NOISE, SEED = 1024, 512, 0.15, 0


def write_world(point: Point, folder: Path) -> None:
    """Make everything in `folder`, which does not exist yet."""
    vita, qwen2 = folder / "vita", folder / "qwen2"
    vita.mkdir(parents=True)
    sizes = VitaSizes(
        vocabulary_size=point.vocabulary,
        num_mtp_layers=0,
        tie_embeddings=point.tied,
        rope_theta=10_000.0,
        **SIZES[point.size],  # type: ignore[arg-type]  # sizes by name
    )
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(sizes.transformers_config())
    model.save_pretrained(qwen2)
    (vita / "config.json").write_text(json.dumps(sizes.public_config()), encoding="utf-8")
    os.link(qwen2 / "model.safetensors", vita / "model.safetensors")
    tokenizer = word_tokenizer(folder)
    tokenizer.save_pretrained(vita)
    tokenizer.save_pretrained(qwen2)
    frozen = _frozen(point, model, vita)
    written = tokenizer([chat(text) for text in frozen["texts"]])["input_ids"]
    if written != frozen["prompts"]:
        raise ValueError("the two ways to write a prompt differ")
    (folder / "frozen.json").write_text(json.dumps({**frozen, "chats": list(map(chat, frozen["texts"]))}))


def word_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Words, control tokens and codec tokens; the embedding has more rows than that where the vocabulary is large."""
    named = ["<unk>", "\n", "system", "user", "assistant"]
    words = [*named, *(f"w{index}" for index in range(WORDS - len(named)))]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    raw.save(str(folder / "words.json"))
    make: Any = PreTrainedTokenizerFast  # transformers leaves its constructor untyped
    tokenizer: PreTrainedTokenizerFast = make(tokenizer_file=str(folder / "words.json"), unk_token="<unk>")
    add_vita_tokens(tokenizer, CODES, hears=False)
    tokenizer.eos_token, tokenizer.pad_token = END_TURN, END_TEXT
    return tokenizer


def chat(text: str) -> str:
    """A user's turn as one string."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def _frozen(point: Point, model: Qwen2ForCausalLM, vita: Path) -> dict[str, Any]:
    """Random dialogues and answers with log-probs."""
    rng, noise = random.Random(SEED), torch.Generator().manual_seed(SEED)
    architecture = VitaAudio(VitaParams(), source=ModelSource(str(vita), None, None))
    layout = architecture.vocabulary.layout
    texts, prompts, answers = [], [], []
    frame = len(_prompt(architecture, ""))
    for index in range(point.prompts):
        length = point.prompt_length - (index * 5 if point.ragged else 0) - frame
        text = " ".join(f"w{rng.randrange(WORDS - 5)}" for _ in range(length))
        prompt = _prompt(architecture, text)
        group = []
        for _ in range(point.group_size):
            count = point.completion_length
            count = rng.randint(count // 2, count) if point.ragged else count
            seen = round(count * point.density)
            ids = [rng.randrange(5, WORDS) for _ in range(seen)]
            ids += [layout.first_code + rng.randrange(CODES) for _ in range(count - seen)]
            logprobs = _logprobs(model, prompt, ids) + NOISE * torch.randn(count, generator=noise)
            group.append({"ids": ids, "mask": [1] * seen + [0] * (count - seen), "logprobs": logprobs.tolist()})
        texts.append(text)
        prompts.append(prompt)
        answers.append(group)
    return {"texts": texts, "prompts": prompts, "answers": answers}


def _prompt(architecture: VitaAudio, text: str) -> list[int]:
    dialogue = Dialogue("0", (Message("user", text),))
    ids: list[int] = architecture.encode_prompt(dialogue, lambda _: ()).ids[0].tolist()
    return ids


@torch.no_grad()
def _logprobs(model: Qwen2ForCausalLM, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """[Tc] of a completion."""
    logits: torch.Tensor = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(dim=-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
