"""Public checkpoints as far as a dry run looks: configs, tokenizers and weight headers, over files without content.

The weight files have their true size and hold zeros that no disk stores (sparse files).
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

BYTES = {"BF16": 2, "F32": 4}
Shapes = Mapping[str, tuple[int, ...]]


def write_headers(folder: Path, shapes: Shapes, *, dtype: str = "BF16", shards: int = 1) -> int:
    """Write `shapes` as safetensors of zeros, with an index where there are several files; gives their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(shapes)
    parts = [names[start::shards] for start in range(shards)]
    files = {f"model-{i + 1:05d}-of-{shards:05d}.safetensors": part for i, part in enumerate(parts)}
    if shards == 1:
        files = {"model.safetensors": names}
    total = 0
    for file, part in files.items():
        header, offset = {}, 0
        for name in part:
            size = BYTES[dtype] * math.prod(shapes[name])
            header[name] = {"dtype": dtype, "shape": list(shapes[name]), "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + offset)
        total += offset
    if shards > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {n: file for file, part in files.items() for n in part},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_tokenizer(folder: Path, *, words: Sequence[str], base: int, added: Sequence[tuple[str, bool]]) -> None:
    """A tokenizer.json whose `base` words are followed by `added` tokens (name, special?)."""
    vocabulary = {word: index for index, word in enumerate(_padded(words, base))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    # Ids go up in the order given; one by one would take minutes.
    for special, run in groupby(added, key=lambda each: each[1]):
        tokens = [AddedToken(name, special=special, normalized=False) for name, _ in run]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(tokens)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def _padded(words: Sequence[str], count: int) -> Iterator[str]:
    yield from words
    yield from (f"filler{index}" for index in range(count - len(words)))
