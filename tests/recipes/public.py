"""The public checkpoints' names, shapes and files, written out from what is published about them."""

import base64
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tests.recipes.written import write_headers, write_json, write_tokenizer
from wavalign.plugins import audio
from wavalign.plugins.batch import Waveform

HIDDEN, INTERMEDIATE, KEYS = 3584, 18944, 512
CODES = 16384
VITA_ROWS, KIMI_ROWS = 168_072, 168_448
SPANS = tuple(f"<|{part}_of_{what}|>" for what in ("image", "video", "patch") for part in ("begin", "end", "context"))
PAIRS = tuple(f"<|{part}_of_{what}|>" for what in ("quad", "ref", "box") for part in ("begin", "end"))
WORDS = ("<unk>", "system", "user", "assistant", "hello", "what", "is", "it", "twelve")
Shapes = dict[str, tuple[int, ...]]


def decoder_layers(prefix: str, count: int) -> Shapes:
    """Qwen2 layers of 7B."""
    shapes: Shapes = {}
    for index in range(count):
        at = f"{prefix}.{index}"
        for name, width in (("q", HIDDEN), ("k", KEYS), ("v", KEYS)):
            shapes[f"{at}.self_attn.{name}_proj.weight"] = (width, HIDDEN)
            shapes[f"{at}.self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{at}.self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{at}.mlp.gate_proj.weight"] = shapes[f"{at}.mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{at}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        shapes[f"{at}.input_layernorm.weight"] = shapes[f"{at}.post_attention_layernorm.weight"] = (HIDDEN,)
    return shapes


def vita_shapes(modules: int, *, hears: bool) -> Shapes:
    shapes = decoder_layers("model.layers", 28 + modules)
    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (VITA_ROWS, HIDDEN)
    shapes["model.norm.weight"] = (HIDDEN,)
    for k in range(modules):
        shapes[f"mtp_projs.{k}.weight"] = (HIDDEN, 2 * HIDDEN)
        shapes[f"mtp_embed_norms.{k}.weight"] = shapes[f"mtp_hidden_norms.{k}.weight"] = (HIDDEN,)
    return {**shapes, **(sensevoice_shapes() if hears else {})}


def sensevoice_shapes() -> Shapes:
    shapes: Shapes = {
        "model.audio_projection.pre_proj_layernorm.weight": (512,),
        "model.audio_projection.pre_proj_layernorm.bias": (512,),
        "model.audio_projection.mlp.0.weight": (HIDDEN, 512),
        "model.audio_projection.mlp.2.weight": (HIDDEN, HIDDEN),
    }
    own: Shapes = {"embed.weight": (16, 560), "ctc.ctc_lo.weight": (25055, 512), "ctc.ctc_lo.bias": (25055,)}
    blocks = ["encoders0.0", *(f"encoders.{i}" for i in range(49)), *(f"tp_encoders.{i}" for i in range(20))]
    for block in blocks:
        inward = 560 if block == "encoders0.0" else 512
        for name, out, into in (
            ("self_attn.linear_q_k_v", 1536, inward),
            ("self_attn.linear_out", 512, 512),
            ("feed_forward.w_1", 2048, 512),
            ("feed_forward.w_2", 512, 2048),
        ):
            own[f"encoder.{block}.{name}.weight"], own[f"encoder.{block}.{name}.bias"] = (out, into), (out,)
        own[f"encoder.{block}.self_attn.fsmn_block.weight"] = (512, 1, 11)
        for norm, width in (("norm1", inward), ("norm2", 512)):
            own[f"encoder.{block}.{norm}.weight"] = own[f"encoder.{block}.{norm}.bias"] = (width,)
    for norm in ("after_norm", "tp_norm"):
        own[f"encoder.{norm}.weight"] = own[f"encoder.{norm}.bias"] = (512,)
    return {**shapes, **{f"model.audio_model.model.{name}": shape for name, shape in own.items()}}


def write_vita(folder: Path, *, modules: int, hears: bool) -> Path:
    """VITA-Audio-Boost or -Balance (10 modules), or the Plus variants, which hear features."""
    write_json(
        folder / "config.json",
        {
            "architectures": ["Qwen2MTPSenseVoiceForCausalLM" if hears else "Qwen2MTPForCausalLM"],
            "model_type": "qwen2_mtp_sensevoice" if hears else "qwen2_mtp",
            **_qwen2(VITA_ROWS, 28 + modules),
            "max_position_embeddings": 32768,
            "num_nextn_predict_layers": modules,
        },
    )
    context = [("<|context_of_audio|>", True)] if hears else []
    added = [
        *((name, True) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
        *((f"<|qwen_{index}|>", True) for index in range(19)),  # what else Qwen2.5 has there
        *((name, True) for name in (*SPANS, "<|begin_of_audio|>", "<|end_of_audio|>")),
        *context,
        *((name, True) for name in (*PAIRS, "<|image|>", "<|video|>", "<|audio|>")),
        *((f"<|audio_{code}|>", False) for code in range(CODES)),
    ]
    write_tokenizer(folder, words=WORDS, base=151_643, added=added)
    if hears:
        shift, scale = " ".join(["0"] * 560), " ".join(["1"] * 560)
        layers = (("AddShift", shift), ("Rescale", scale))
        text = "".join(f"<{name}> 560 560\n<LearnRateCoef> 0 [ {values} ]\n" for name, values in layers)
        (folder / "am.mvn").write_text(text)
    write_headers(folder, vita_shapes(modules, hears=hears), shards=5)
    return folder


def kimi_shapes() -> Shapes:
    shapes = {**decoder_layers("model.layers", 28), **decoder_layers("model.mimo_layers", 6)}
    layers = [f"model.layers.{i}" for i in range(28)] + [f"model.mimo_layers.{i}" for i in range(6)]
    shapes.update({f"{layer}.self_attn.rotary_emb.inv_freq": (64,) for layer in layers})
    for name in ("model.embed_tokens", "lm_head", "mimo_output"):
        shapes[f"{name}.weight"] = (KIMI_ROWS, HIDDEN)
    shapes["model.norm.weight"] = shapes["model.mimo_norm.weight"] = (HIDDEN,)
    for index, shape in ((0, (HIDDEN, 5120)), (3, (HIDDEN, HIDDEN)), (4, (HIDDEN,))):
        shapes[f"model.vq_adaptor.layers.{index}.weight"] = shape
        shapes[f"model.vq_adaptor.layers.{index}.bias"] = (HIDDEN,)
    return shapes


def write_kimi(folder: Path) -> Path:
    """Kimi-Audio-7B-Instruct; its Whisper has the public widths and one layer, so that it may run here."""
    write_json(
        folder / "config.json",
        {
            "architectures": ["MoonshotKimiaForCausalLM"],
            **_qwen2(KIMI_ROWS, 28),
            "max_position_embeddings": 8192,
            "kimia_adaptor_input_dim": 5120,
            "kimia_audio_output_vocab": 16896,
            "kimia_media_begin": 151661,
            "kimia_media_end": 151663,
            "kimia_mimo_audiodelaytokens": 6,
            "kimia_mimo_layers": 6,
            "kimia_mimo_transformer_from_layer_index": 21,
            "kimia_text_output_vocab": 152064,
            "kimia_token_offset": 152064,
            "use_whisper_feature": True,
        },
    )
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(_ranks(151_643)))
    (folder / "tiktoken.model").write_text("".join(lines))
    write_headers(folder, kimi_shapes(), shards=36)
    whisper = WhisperConfig(
        d_model=1280,
        encoder_layers=1,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        num_mel_bins=128,
        max_source_positions=1500,
    )
    whisper.save_pretrained(str(folder / "whisper-large-v3"))
    with torch.device("meta"):
        encoder = WhisperEncoder(whisper)
    named = {f"model.encoder.{name}": tuple(x.shape) for name, x in encoder.state_dict().items()}
    write_headers(folder / "whisper-large-v3", named, dtype="F32")
    return folder


def write_dialogue(folder: Path) -> Path:
    """Two spoken dialogues in the research code's format."""
    for name, seconds in (("question", 1.2), ("answer", 0.7)):
        times = np.arange(int(16_000 * seconds)) / 16_000
        sound = Waveform((0.1 * np.sin(2 * np.pi * 220 * times)).astype(np.float32), 16_000)
        audio.write(sound, folder / f"{name}.wav")
    line = (
        '{"messages": [{"role": "user", "content": "<|audio|>"}], "audios": ["question.wav"], '
        '"sft_target_text": "it is twelve", "sft_target_audio": "answer.wav", "task_type": "s2s", '
        '"reference": "it is twelve"}\n'
    )
    (folder / "data.jsonl").write_text(2 * line)
    return folder / "data.jsonl"


def _qwen2(rows: int, layers: int) -> dict[str, Any]:
    return {
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": 28,
        "num_hidden_layers": layers,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": rows,
    }


def _ranks(count: int) -> Iterator[bytes]:
    """So many byte strings, each of two that come before it."""
    every = [bytes([value]) for value in range(256)]
    pairs = [a + b for a, b in product(every, every)]
    found = [*every, *pairs, *(pair + byte for pair, byte in product(pairs[: 1 + count // 256], every))]
    return iter(found[:count])
