"""A `fit_codec` stage: learn the codec's tables from the sound of the demonstrations."""

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.contracts.construct import guarded
from wavalign.engine.stages.cursor import Cursor
from wavalign.engine.state.seeds import generator
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Dialogue, Waveform
from wavalign.plugins.guard import origin_of


def run(stage: StagePlan, cursor: Cursor) -> None:
    """Write codec.safetensors into the stage's folder; only the first rank fits, from the stage's seed."""
    cursor.observer.stage(stage.name, 0)
    component, sources = stage.stage.model.codec, stage.stage.data.demonstrations
    assert component is not None and sources is not None
    feed, folder = cursor.builder.feed(sources, 0), cursor.stage_folder(stage)
    if cursor.world.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        plugin = cursor.builder.registry.get("codec", component.type)
        fitted = guarded(plugin, Codec, origin_of(plugin, "codec", component.type, "model.codec"))
        waveforms = [sound for dialogue in feed.all(None) for sound in _sounds(dialogue)]
        if not waveforms:
            raise DataError("no dialogue of data.demonstrations has sound", hint="a codec is fitted on sound")
        params = plugin.Params.model_validate(dict(component.params))
        rng = generator(cursor.plan.seed, stage.name, "codec")
        fitted.fit(params, waveforms, generator=rng, path=str(folder / "codec.safetensors"))
    cursor.world.barrier()
    cursor.complete(stage)


def _sounds(dialogue: Dialogue) -> list[Waveform]:
    turns = [*dialogue.messages, *([dialogue.target] if dialogue.target is not None else [])]
    return [audio.read(turn.audio, sample_rate=None) for turn in turns if turn.audio is not None]
