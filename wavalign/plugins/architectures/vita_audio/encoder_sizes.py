"""The numbers that fix the audio encoder, from a preset or from the `config.yaml` beside a public checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import yaml

from wavalign.errors import CheckpointError
from wavalign.plugins.architectures.vita_audio.features import FRONTEND

CONFIG_FILE = "config.yaml"
ENCODER_NAME = "SenseVoiceEncoderSmall"


@final
@dataclass(frozen=True, slots=True)
class EncoderSizes:
    """Sizes of a SenseVoice encoder."""

    hidden_size: int
    num_heads: int
    intermediate_size: int
    num_blocks: int
    """Blocks before the first closing norm; the first of them takes the features."""
    num_late_blocks: int
    """Blocks between the first and the second closing norm, which SenseVoice calls `tp`."""
    kernel_size: int
    """Frames that the memory of a block looks at."""
    vocabulary_size: int
    """Rows of the recogniser's head, which is stored with the encoder and not used."""

    def check(self) -> None:
        """Raise CheckpointError where the numbers do not fit one another."""
        counts = (self.hidden_size, self.num_heads, self.intermediate_size, self.num_blocks, self.vocabulary_size)
        if min(counts) < 1 or self.num_late_blocks < 0:
            raise CheckpointError("every size of the audio encoder must be at least 1, num_late_blocks at least 0")
        if self.hidden_size % self.num_heads:
            raise CheckpointError(
                f"the audio encoder's hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise CheckpointError(f"the audio encoder's kernel_size must be odd, not {self.kernel_size}")

    def public_config(self) -> str:
        """The text of a `config.yaml` in the public layout; `vocab_size` is an addition to it."""
        content = {
            "encoder": ENCODER_NAME,
            "encoder_conf": {
                "output_size": self.hidden_size,
                "attention_heads": self.num_heads,
                "linear_units": self.intermediate_size,
                "num_blocks": self.num_blocks,
                "tp_blocks": self.num_late_blocks,
                "kernel_size": self.kernel_size,
                "sanm_shfit": 0,
            },
            "frontend": "WavFrontend",
            "frontend_conf": FRONTEND,
            "model": "SenseVoiceSmall",
            "vocab_size": self.vocabulary_size,
        }
        text: str = yaml.safe_dump(content, sort_keys=True)
        return text


SENSEVOICE_SMALL: Final = EncoderSizes(
    hidden_size=512,
    num_heads=4,
    intermediate_size=2048,
    num_blocks=50,
    num_late_blocks=20,
    kernel_size=11,
    vocabulary_size=25055,
)
"""The public encoder. A checkpoint without `config.yaml` is taken to hold this one."""


def read_encoder_config(folder: str) -> tuple[EncoderSizes, str | None]:
    """Sizes of the encoder in a checkpoint folder and the text of its `config.yaml`, None where there is no such file.

    Raises CheckpointError where the file is torn or describes another encoder or other features.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        return SENSEVOICE_SMALL, None
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
        sizes = _sizes(config, config["encoder_conf"])
        frontend = dict(config["frontend_conf"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not describe an audio encoder: {error!r}", hint="expected the config.yaml of SenseVoiceSmall"
        ) from error
    wrong = [f"{name} {frontend[name]}" for name, value in FRONTEND.items() if frontend.get(name, value) != value]
    if config.get("encoder") != ENCODER_NAME or config["encoder_conf"].get("sanm_shfit", 0):
        raise CheckpointError(f"{path}: only {ENCODER_NAME} with sanm_shfit 0 is supported")
    if wrong:
        raise CheckpointError(f"{path}: features with {', '.join(wrong)} are not supported, only {FRONTEND}")
    sizes.check()
    return sizes, text


def _sizes(config: dict[str, Any], encoder: dict[str, Any]) -> EncoderSizes:
    """Sizes from the sections of a `config.yaml`; KeyError on a missing entry."""
    return EncoderSizes(
        hidden_size=int(encoder["output_size"]),
        num_heads=int(encoder["attention_heads"]),
        intermediate_size=int(encoder["linear_units"]),
        num_blocks=int(encoder["num_blocks"]),
        num_late_blocks=int(encoder["tp_blocks"]),
        kernel_size=int(encoder["kernel_size"]),
        # The public file leaves it to the recogniser's tokenizer.
        vocabulary_size=int(config.get("vocab_size", SENSEVOICE_SMALL.vocabulary_size)),
    )
