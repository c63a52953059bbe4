"""What users say as Whisper features beside its codes: their places, what they do, and where the encoder is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.plugins.architectures.kimi_helpers import (
    FEATURE_SIZE,
    hearing_kimi,
    lively_policy,
    picture,
    small_kimi,
    write_clip,
)
from tests.plugins.architectures.vita_helpers import codes_of, spoken, write_tokenizer
from tests.plugins.speech.whisper_helpers import write_whisper
from wavalign.errors import CheckpointError, DataError
from wavalign.plugins import audio
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.kimi import KimiAudio, KimiParams
from wavalign.plugins.architectures.kimi_audio import whisper_front_end
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, TEXT
from wavalign.plugins.batch import AudioClip, Dialogue, Message, SoundSegment, Waveform, collate
from wavalign.plugins.speech.whisper_features import WhisperFeatures

BOTH = frozenset({TEXT, AUDIO})


@pytest.fixture(autouse=True)
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run beside the clips they name."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for codes in ((1,), (2, 3), (4, 5, 6), (7, 8)):
        write_clip(codes, folder)
    monkeypatch.chdir(folder)


def dialogue_of(*messages: tuple[str, str, str]) -> Dialogue:
    """Messages of (role, text, codes)."""
    said = (Message(role, text, AudioClip(codes) if codes else None) for role, text, codes in messages)
    return Dialogue("d", tuple(said))


def test_features_stand_beside_the_codes_of_every_spoken_user_message_alone(tmp_path: Path) -> None:
    kimi = hearing_kimi(tmp_path)
    talk = dialogue_of(
        ("user", "", "2,3"),
        ("user", "w1 w2", ""),
        ("user", "", "1"),
        ("assistant", "w3", "7,8"),
        ("user", "", "4,5,6"),
    )
    row = kimi.encode_prompt(talk, codes_of)
    _, sounds = picture(kimi, row.ids)
    assert sounds == "U [ 2 3 ] B B [ 1 ] W D S B B 7 8 D U [ 4 5 6 ] W D S"
    named = sounds.split()
    heard = [named[each.start : each.start + each.length] for each in row.sounds]
    assert heard == [["2", "3"], ["1"], ["4", "5", "6"]]
    whisper = WhisperFeatures(str(tmp_path / "whisper"), device="cpu")
    for segment, codes in zip(row.sounds, ("2,3", "1", "4,5,6"), strict=True):
        frames = whisper.frames(audio.read(AudioClip(codes), sample_rate=16_000), multiple=4)
        fours = [frames[n : n + 4].flatten() for n in range(0, len(frames), 4)]
        assert torch.equal(segment.values, torch.stack(fours))
        assert segment.values.shape == (segment.length, FEATURE_SIZE)


def test_hidden_states_are_those_of_the_formula(tmp_path: Path) -> None:
    """Two messages in one row, one in the next, none in the last: (E[audio] + adaptor(w)) sqrt(2) + E[text]."""
    kimi = hearing_kimi(tmp_path)
    policy = lively_policy(kimi).eval()
    spoken_twice, written = (("user", "", "2,3"), ("user", "", "1")), ("user", "w1 w2", "")
    talks = (dialogue_of(*spoken_twice), dialogue_of(("user", "", "4,5,6")), dialogue_of(written))
    batch = collate([kimi.encode_prompt(talk, codes_of) for talk in talks], kimi.tokens)
    listens = whisper_front_end.WhisperFrontEnd(tmp_path / "whisper", feature_size=FEATURE_SIZE, device="cpu")
    model, adaptor = policy.model, policy.model.vq_adaptor
    assert adaptor is not None
    linear, act, _, second, norm = adaptor.layers
    with torch.no_grad():
        expected = model.embed_tokens(batch.ids[:, AUDIO])
        for row, start, codes in ((0, 2, "2,3"), (0, 6, "1"), (1, 2, "4,5,6")):
            for place, values in enumerate(listens(AudioClip(codes)), start):
                assert int(batch.ids[row, AUDIO, place]) >= kimi.sizes.first_code
                expected[row, place] = (expected[row, place] + norm(second(act(linear(values))))) * 2**0.5
        expected = expected + model.embed_tokens(batch.ids[:, TEXT])
        found: list[Tensor] = []
        handle = model.layers[0].register_forward_pre_hook(lambda _, given: found.append(given[0]))
        policy.hidden(batch, BOTH)
        handle.remove()
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


def test_a_group_shares_its_features_and_they_are_adapted_once(tmp_path: Path) -> None:
    kimi = hearing_kimi(tmp_path)
    policy, prompt = lively_policy(kimi).eval(), kimi.encode_prompt(spoken("d", [4, 5, 6]), codes_of)
    other = kimi.encode_prompt(spoken("d", [2, 3]), codes_of)
    seen: list[int] = []
    assert policy.model.vq_adaptor is not None
    policy.model.vq_adaptor.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    with torch.no_grad():
        batch = collate([prompt, other, prompt], kimi.tokens).to(torch.device("cpu"))
        together = policy.hidden(batch, frozenset({TEXT}))[TEXT]
        assert seen == [5]
        alone = policy.hidden(collate([prompt], kimi.tokens), frozenset({TEXT}))[TEXT]
    torch.testing.assert_close(together[0, : prompt.length], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together[2, : prompt.length], alone[0], atol=1e-5, rtol=0)


def test_the_adaptor_runs_even_where_nobody_speaks(tmp_path: Path) -> None:
    """Else processes that gather its weights from one another would wait for those whose users write."""
    kimi = hearing_kimi(tmp_path)
    policy = lively_policy(kimi)
    written = kimi.encode_prompt(dialogue_of(("user", "w1", "")), codes_of)
    deaf = small_kimi(tmp_path)
    policy.hidden(collate([written], kimi.tokens), frozenset({TEXT}))[TEXT].sum().backward()
    for name, parameter in policy.named_parameters():
        if "vq_adaptor" in name:
            assert parameter.grad is not None and not parameter.grad.any()
    same = deaf.empty_policy()
    same.load_state_dict({name: x for name, x in policy.state_dict().items() if "vq_adaptor" not in name})
    for head in BOTH:
        ours, theirs = (each.hidden(collate([written], kimi.tokens), BOTH)[head] for each in (policy, same))
        assert torch.equal(ours, theirs)


def test_features_must_fit_the_network_and_the_positions(tmp_path: Path) -> None:
    plain, hearing = small_kimi(tmp_path), hearing_kimi(tmp_path)
    row = hearing.encode_prompt(spoken("d", [2, 3]), codes_of)
    with pytest.raises(ValueError, match="takes no features"):
        plain.build_policy(seed=0).hidden(collate([row], plain.tokens), BOTH)
    short = replace(row, sounds=(SoundSegment(2, 2, torch.zeros(3, FEATURE_SIZE)),))
    with pytest.raises(ValueError, match="3 features for 2 positions"):
        hearing.build_policy(seed=0).hidden(collate([short], hearing.tokens), BOTH)
    with pytest.raises(DataError, match=r"2,3: 5 codes but 2 features, which come 12\.5 a second"):
        hearing.encode_prompt(spoken("d", [2, 3]), lambda clip: [1] * 5)
    absent = Dialogue("d", (Message("user", "", AudioClip("memory://clips/absent.wav")),))
    with pytest.raises(DataError, match=r"absent\.wav: the sound file cannot be opened"):
        hearing.encode_prompt(absent, lambda clip: [1])


def test_features_are_computed_once_by_content_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finds them and never reads the encoder's weights; other weights give other features."""
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    folder = Path(write_whisper(tmp_path / "w"))
    asked: list[int] = []
    frames = WhisperFeatures.frames

    def counted(self: WhisperFeatures, waveform: Waveform, *, multiple: int = 1) -> Tensor:
        asked.append(len(waveform.samples))
        return frames(self, waveform, multiple=multiple)

    monkeypatch.setattr(WhisperFeatures, "frames", counted)

    def listening() -> whisper_front_end.WhisperFrontEnd:
        return whisper_front_end.WhisperFrontEnd(folder, feature_size=FEATURE_SIZE, device="cpu")

    first, later = listening(), listening()
    cold = [first(AudioClip(codes)) for codes in ("1", "2,3", "1")]
    warm = [later(AudioClip(codes)) for codes in ("1", "2,3", "1")]
    assert all(torch.equal(one, other) for one, other in zip(cold, warm, strict=True))
    assert len(asked) == 2 and later._whisper._encoder is None
    weights = load_file(folder / "model.safetensors")
    save_file({name: each + 0.25 for name, each in weights.items()}, folder / "model.safetensors")
    assert not torch.equal(listening()(AudioClip("1")), cold[0])
    assert len(asked) == 3


def test_hearing_codes_alone_is_a_choice_and_a_lacking_encoder_an_error(tmp_path: Path) -> None:
    deaf = small_kimi(tmp_path, feature_size=5, codes_only=True)
    assert deaf.encode_prompt(spoken("d", [1]), codes_of).sounds == ()
    assert small_kimi(tmp_path).encode_prompt(spoken("d", [1]), codes_of).sounds == ()
    with pytest.raises(CheckpointError, match="need a Whisper model") as caught:
        small_kimi(tmp_path, feature_size=FEATURE_SIZE)
    assert "model.architecture.whisper" in caught.value.hint
    with pytest.raises(CheckpointError, match=r"nowhere does not exist: this network hears Whisper features"):
        hearing_kimi(tmp_path, whisper=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="gives features of 4 x 8, not the 20"):
        hearing_kimi(tmp_path, feature_size=20)


def public_folder(place: Path) -> Path:
    """A checkpoint folder as it is published, Whisper and further large folders inside."""
    small = hearing_kimi(place)
    small.save_layout(str(place / "published"))
    published = place / "published"
    (published / "whisper-large-v3").unlink()
    write_whisper(published / "whisper-large-v3")
    (published / "vocoder").mkdir()
    (published / "vocoder" / "model.pt").write_bytes(b"large")
    config = (published / "config.json").read_text()
    (published / "config.json").write_text(config.replace("{", '{"transformers_version":   "4.44",', 1))
    (published / "generation_config.json").write_text("{}")
    (published / "tokenization_kimia.py").write_text("raise SystemExit('this file is never run')\n")
    (published / "model.safetensors.index.json").write_text("{}")
    (published / "model-1-of-1.safetensors").write_bytes(b"weights")
    return published


def test_a_folder_handed_on_has_the_files_of_its_checkpoint_and_finds_whisper(tmp_path: Path) -> None:
    published = public_folder(tmp_path)
    source = published
    for stage in ("first", "second"):
        saved = tmp_path / stage / "model"
        KimiAudio(KimiParams(), source=ModelSource(str(source), None, None)).save_layout(str(saved))
        names = {path.name for path in saved.iterdir()}
        assert names == {path.name for path in published.iterdir()} - {
            "vocoder",
            "model.safetensors.index.json",
            "model-1-of-1.safetensors",
        }
        for name in names - {"whisper-large-v3"}:
            assert (saved / name).read_bytes() == (published / name).read_bytes()
        assert (saved / "whisper-large-v3").resolve() == published / "whisper-large-v3"
        source = saved
    again = KimiAudio(KimiParams(), source=ModelSource(str(source), None, None))
    first = KimiAudio(KimiParams(), source=ModelSource(str(published), None, None))
    ours, theirs = (each.encode_prompt(spoken("d", [2, 3]), codes_of) for each in (again, first))
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.sounds[0].values, theirs.sounds[0].values)


def test_a_checkpoint_without_whisper_says_where_it_was_looked_for(tmp_path: Path) -> None:
    published, elsewhere = public_folder(tmp_path), tmp_path / "elsewhere"
    (published / "whisper-large-v3").rename(elsewhere)
    source = ModelSource(str(published), None, None)
    with pytest.raises(CheckpointError, match=r"published/whisper-large-v3 does not exist") as caught:
        KimiAudio(KimiParams(), source=source)
    assert "set model.architecture.whisper" in caught.value.hint
    saved = tmp_path / "saved"
    KimiAudio(KimiParams(whisper=str(elsewhere)), source=source).save_layout(str(saved))
    KimiAudio(KimiParams(whisper=str(elsewhere)), source=source).save_layout(str(saved))  # once more changes nothing
    assert (saved / "whisper-large-v3").resolve() == elsewhere
    KimiAudio(KimiParams(codes_only=True), source=source).save_layout(str(tmp_path / "deaf"))
    assert not (tmp_path / "deaf" / "whisper-large-v3").is_symlink()


def test_a_disk_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    kimi, saved = hearing_kimi(tmp_path), tmp_path / "saved"
    kimi.save_layout(str(saved))
    assert not (saved / "whisper-large-v3").is_symlink()
    weights = "whisper-large-v3/model.safetensors"
    assert (saved / weights).read_bytes() == (tmp_path / "whisper" / "model.safetensors").read_bytes()
    kimi.save_layout(str(saved))


def test_a_preset_writes_its_own_files(tmp_path: Path) -> None:
    small_kimi(tmp_path).save_layout(str(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["use_whisper_feature"] is False
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    assert Path(write_tokenizer(tmp_path)).is_file()
