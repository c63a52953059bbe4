"""Small instances of every built-in codec, as a person would make them: from files on disk."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform
from wavalign.plugins.codecs.glm4voice import DecoderOptions, Glm4VoiceCodec, Glm4VoiceParams
from wavalign.plugins.codecs.neural.families import Xcodec2
from wavalign.plugins.codecs.phonetic import PhoneticCodec, PhoneticParams
from wavalign.plugins.codecs.process import ProcessCodec, ProcessParams
from wavalign.plugins.codecs.source_filter import SourceFilterCodec, SourceFilterParams
from wavalign.plugins.codecs.transformers import TransformersCodec, TransformersParams
from wavalign.plugins.codecs.whisper_vq.network import WhisperVq
from wavalign.plugins.codecs.whisper_vq.sizes import sizes_of_config
from wavalign.plugins.speech.codebooks import Settings, fit, save
from wavalign.plugins.speech.phone_classifier import PhoneClassifier
from wavalign.plugins.speech.phonetic_books import PhoneticBooks, PhoneticSettings, save_phonetic
from wavalign.storage.tensors import save_weights

T = TypeVar("T")
WORKERS = Path(__file__).parent / "workers"
VQ_CONFIG: dict[str, Any] = {
    "d_model": 16,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 8,
    "max_source_positions": 1500,
    "encoder_layers": 3,
    "quantize_position": 2,
    "pooling_position": 2,
    "pooling_kernel_size": 4,
    "pooling_type": "avg",
    "quantize_vocab_size": 48,
    "quantize_causal_block_size": 20,
    "encoder_causal_convolution": True,
}


@dataclass(frozen=True, slots=True)
class Maker:
    """How a codec is made in a folder from a seed, and how many frames it gives for a number of samples."""

    make: Callable[[Path, int], Codec]
    frames: Callable[[int], int]


def noise(count: int, rate: int, seed: int = 0) -> Waveform:
    """Sound whose loudness and colour change: every codec finds several codes in it."""
    drawn = np.random.default_rng(seed).standard_normal(count + 8)
    slow = np.sin(np.arange(count) * (2 * np.pi / (0.13 * rate))) ** 2
    smooth = np.convolve(drawn, np.ones(9) / 3, mode="valid")[:count]
    mixed = 0.3 * (slow * drawn[:count] + (1 - slow) * smooth) * (0.1 + slow)
    return Waveform(np.clip(mixed, -1, 1).astype(np.float32), rate)


def seeded(build: Callable[[], T], seed: int) -> T:
    """What `build` makes with the library's own first weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def lively(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Weights drawn wide, so that different sound gets different codes."""
    generator = torch.Generator().manual_seed(seed)
    wide = {name: torch.randn(x.shape, generator=generator) / x[0].numel() ** 0.5 for name, x in weights.items()}
    return {name: 0.05 * x if "positions" in name else 2 * x for name, x in wide.items()}


def vq_weights(seed: int, **changes: Any) -> dict[str, Tensor]:
    """Weights of a small tokenizer whose code book lies among what its layers give."""
    network = seeded(lambda: WhisperVq(sizes_of_config({**VQ_CONFIG, **changes}, "test")), seed)
    weights = lively(network.state_dict(), seed)
    network.load_state_dict(weights)
    heard = noise(1280 * network.sizes.num_codes, 16_000, seed + 100).samples
    features: Any = transformers.WhisperFeatureExtractor(  # type: ignore[no-untyped-call]
        feature_size=network.sizes.num_mels
    )
    mel = features(heard, sampling_rate=16_000, padding="longest", return_tensors="pt")["input_features"]
    with torch.no_grad():
        found = network.points(mel, torch.ones(1, mel.shape[2]))[0]
    return {**weights, "codebook.weight": found.contiguous()}


def write_vq(folder: Path, seed: int = 0, **changes: Any) -> str:
    """A small checkpoint of the GLM-4-Voice tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**VQ_CONFIG, **changes}))
    save_weights(vq_weights(seed, **changes), str(folder))
    return str(folder)


def decoder(codes: int = 48, rate: int = 22_050, **changes: Any) -> DecoderOptions:
    """The toy decoder."""
    arguments = (str(rate), str(rate * 80 // 1000), str(codes), "0")
    return DecoderOptions(script=str(WORKERS / "tones.py"), arguments=arguments, **changes)


def glm4voice(folder: Path, seed: int) -> Codec:
    return Glm4VoiceCodec(Glm4VoiceParams(checkpoint=write_vq(folder, seed), decoder=decoder()))


def source_filter(folder: Path, seed: int) -> Codec:
    path = folder / "codec.safetensors"
    generator = torch.Generator().manual_seed(seed)
    save(fit([noise(16_000, 16_000, seed)], Settings(num_content=8, num_prosody=4), generator=generator), path)
    return SourceFilterCodec(SourceFilterParams(checkpoint=str(path)))


def phonetic(folder: Path, seed: int) -> Codec:
    """Untrained, in phones that the neural voice has."""
    pytest.importorskip("hibari", reason="the extra `natural` is not installed")
    path, drawn = folder / "codec.safetensors", torch.Generator().manual_seed(seed)
    phones = torch.tensor([0, 4, 16, 43, 54, 65, 156])
    tables = {
        "phones": phones,
        "levels": torch.tensor([-6.0, -6.0, 1.0, 5.0, 5.0, 6.0, 4.0]),
        "loudness": torch.tensor([0.18, 11.4]),
        "patterns": torch.randint(len(phones), (12, 3), generator=drawn),
        "priors": torch.zeros(12),
        "prosody": torch.tensor([[12.0, -2.0], [14.0, 0.0], [16.0, 2.0], [18.0, 4.0]]),
    }
    network = seeded(lambda: PhoneClassifier(len(phones)), seed)
    for parameter in network.parameters():
        parameter.data.mul_(5.0)  # so that two sounds differ in their likeliest phones
    save_phonetic(PhoneticBooks(PhoneticSettings(12, 4, 3), network, tables), path)
    return PhoneticCodec(PhoneticParams(checkpoint=str(path)))


def process(folder: Path, seed: int) -> Codec:
    options = ProcessParams(script=str(WORKERS / "tones.py"), arguments=("12000", "240", str(64 + seed), "10"))
    return ProcessCodec(options)


def transformers_codec(
    build: Callable[[], Any], *, codebooks: int | None = None
) -> Callable[[Path, int], TransformersCodec]:
    """Maker of a codec of the library: `build` gives a small model, whose weights are drawn anew."""

    def make(folder: Path, seed: int) -> TransformersCodec:
        write_model(seeded(build, seed), folder, seed)
        return TransformersCodec(TransformersParams(checkpoint=str(folder), codebooks=codebooks))

    return make


def write_model(model: Any, folder: Path, seed: int = 0) -> Any:
    """Draw the weights of `model` and write it as the library does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.state_dict().items():
            drawn = torch.randn(x.shape, generator=generator)
            if name.endswith(("embed", "embed_sum", "codebook.weight")):
                x.copy_(drawn * 0.1)  # some come as zeros: every sound the same code
            elif name.endswith((".weight", ".original1", ".bias")):
                x.add_(drawn * 0.1)
        spread(model.eval())
    model.save_pretrained(folder)
    return model


def spread(model: Any) -> None:
    """Put what is looked up where the encoder's values lie; random encoders vary little around a value of their own."""
    kind = model.config.model_type
    if kind == "encodec":
        points = model.encoder(torch.from_numpy(noise(16 * 16, 800).samples)[None, None])[0].T
        for level, layer in enumerate(model.quantizer.layers):
            layer.codebook.embed.copy_(points if level == 0 else 0.5**level * (points - points.mean(dim=0)))
    if kind == "xcodec2":
        seen: list[Tensor] = []
        hook = model.quantizer.project_in.register_forward_hook(lambda module, given, made: seen.append(made[0]))
        Xcodec2(model, "test").encode(torch.from_numpy(noise(32_000, 16_000).samples), 1)
        hook.remove()
        scale, layer = seen[0].std(dim=0), model.quantizer.project_in
        layer.weight.div_(scale[:, None])
        layer.bias.sub_(seen[0].mean(dim=0)).div_(scale)


def encodec() -> Any:
    return transformers.EncodecModel(
        transformers.EncodecConfig(
            target_bandwidths=[0.2, 0.4, 1.0],
            sampling_rate=800,
            num_filters=4,
            hidden_size=16,
            codebook_size=16,
            codebook_dim=16,
            upsampling_ratios=[4, 2, 2],
            num_lstm_layers=1,
        )
    )


def mimi() -> Any:
    return transformers.MimiModel(
        transformers.MimiConfig(
            sampling_rate=800,
            hidden_size=16,
            num_filters=4,
            upsampling_ratios=[4, 2],
            codebook_size=16,
            codebook_dim=8,
            vector_quantization_hidden_dimension=8,
            num_quantizers=4,
            upsample_groups=16,
            num_hidden_layers=1,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


def dac() -> Any:
    return transformers.DacModel(
        transformers.DacConfig(
            encoder_hidden_size=4,
            decoder_hidden_size=32,
            downsampling_ratios=[2, 5],
            n_codebooks=3,
            codebook_size=16,
            codebook_dim=4,
            sampling_rate=800,
        )
    )


def xcodec2() -> Any:
    heard = transformers.Wav2Vec2BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_depthwise_kernel_size=3,
        add_adapter=False,
    )
    return transformers.Xcodec2Model(
        transformers.Xcodec2Config(
            hidden_size=64,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            encoder_hidden_size=4,
            semantic_model_config=heard,
            quantization_dim=80,
            quantization_levels=[4, 4],
        )
    )


def begun(size: int) -> Callable[[int], int]:
    """Every frame that has begun counts."""
    return lambda count: -(-count // size)


MAKERS: dict[str, Maker] = {
    "source_filter": Maker(source_filter, begun(1280)),
    "glm4voice": Maker(glm4voice, begun(1280)),
    "phonetic": Maker(phonetic, begun(1200)),
    "process": Maker(process, begun(160)),
    "transformers, encodec": Maker(transformers_codec(encodec, codebooks=3), begun(16)),
    "transformers, mimi": Maker(transformers_codec(mimi), begun(16)),
    "transformers, dac": Maker(transformers_codec(dac, codebooks=2), begun(10)),
    "transformers, xcodec2": Maker(transformers_codec(xcodec2), lambda count: (count + 1) // 320),
}
