"""A `fit_codec` stage: learn the codec's tables from the sound of the demonstrations."""

from pathlib import Path
from typing import TYPE_CHECKING

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.contracts.construct import guarded
from wavalign.engine.state.seeds import generator
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Dialogue, Waveform
from wavalign.plugins.guard import origin_of

if TYPE_CHECKING:
    from wavalign.engine.run.builder import Builder


def fit_codec(builder: "Builder", stage: StagePlan, folder: Path) -> None:
    """Write `folder`/codec.safetensors; only the first rank fits, from the stage's seed."""
    component, sources = stage.stage.model.codec, stage.stage.data.demonstrations
    assert component is not None and sources is not None
    feed = builder.feed(sources, 0)
    if builder.world.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        plugin = builder.registry.get("codec", component.type)
        fitted = guarded(plugin, Codec, origin_of(plugin, "codec", component.type, "model.codec"))
        waveforms = [sound for dialogue in feed.all(None) for sound in _sounds(dialogue)]
        if not waveforms:
            raise DataError("no dialogue of data.demonstrations has sound", hint="a codec is fitted on sound")
        params = plugin.Params.model_validate(dict(component.params))
        rng = generator(builder.plan.seed, stage.name, "codec")
        fitted.fit(params, waveforms, generator=rng, path=str(folder / "codec.safetensors"))
    builder.world.barrier()


def _sounds(dialogue: Dialogue) -> list[Waveform]:
    turns = [*dialogue.messages, *([dialogue.target] if dialogue.target is not None else [])]
    return [audio.read(turn.audio, sample_rate=None) for turn in turns if turn.audio is not None]
