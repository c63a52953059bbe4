"""Templates, targets and answers on one stream and on several; sizes; the public layout on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.plugins.architectures.codec_lm_helpers import (
    NUM_CODES,
    SMALL,
    lively_policy,
    picture,
    small_codec_lm,
    target,
)
from tests.plugins.architectures.vita_helpers import codes_of, spoken, write_tokenizer
from wavalign.errors import CheckpointError, DataError
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.codec_language_model.templates import TemplateName
from wavalign.plugins.architectures.codec_lm import CodecLm, CodecLmParams
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, TokenSequence, collate
from wavalign.storage.tensors import load_into, save_weights

ROLES = {0: "-", 1: "p", 2: "t", 3: "e", 4: "a", 5: "m", 6: "f"}


def prompted(model: CodecLm, dialogue: Dialogue) -> str:
    return picture(model, model.encode_prompt(dialogue, codes_of).ids)[0]


def answered(model: CodecLm, dialogue: Dialogue) -> list[str]:
    return picture(model, model.encode_target(dialogue, codes_of).ids)


def roles_of(model: CodecLm, dialogue: Dialogue) -> list[str]:
    roles = model.encode_target(dialogue, codes_of).roles
    return ["".join(ROLES[role] for role in row) for row in roles.tolist()]


def heard(codes: str, text: str = "") -> Message:
    return Message("user", text, AudioClip(codes))


def test_speechgpt_writes_the_published_chain_of_modality(tmp_path: Path) -> None:
    model = small_codec_lm(tmp_path, transcript=True)
    dialogue = target("w3 w4", [3, 1, 4], Message("system", "w9"), heard("7,8", "w1 w2"))
    assert prompted(model, dialogue) == "w9 / [Human] : ^ 7 8 $ <eoh> . [SpeechGPT] :"
    assert answered(model, dialogue) == ["w1 w2 ; [ta] w3 w4 ; [ua] ^ 3 1 4 $ <eoa>"]
    assert roles_of(model, dialogue) == ["ttttttttmaaamm"]
    assert roles_of(model, target("w3", [])) == ["te"]
    assert answered(model, target("w3", [])) == ["w3 <eoa>"]
    assert answered(model, target("", [3, 1])) == ["^ 3 1 $ <eoa>"]
    assert answered(model, target("w3", [3])) == ["[ta] w3 ; [ua] ^ 3 $ <eoa>"], "nothing was said to transcribe"


def test_anygpt_and_speechalign_are_written_as_published(tmp_path: Path) -> None:
    model = small_codec_lm(tmp_path, template="anygpt")
    dialogue = target("w3 w4", [3, 1], Message("system", "w9"), heard("7"))
    assert prompted(model, dialogue) == "w9 / [Human] : ^ 7 $ <eoh> / [MMGPT] :"
    assert answered(model, dialogue) == ["w3 w4 <eot> / ^ 3 1 $ <eos>"]
    assert roles_of(model, dialogue) == ["ttttmaamm"]
    assert model.vocabulary.tokenizer.convert_tokens_to_ids("<🗣️3>") == model.vocabulary.layout.first_code + 3
    model = small_codec_lm(tmp_path, template="speechalign")
    dialogue = target("w3 w4", [3, 1], Message("user", "w3 w4"))
    asked = "Read this text and give me a speech response : w3 w4"
    assert prompted(model, dialogue) == f"[Human] : {asked} <eoh> [SpeechGPT] :"
    assert answered(model, dialogue) == ["^ 3 1 $ <eoa>"]
    assert roles_of(model, dialogue) == ["maamm"]
    plain = small_codec_lm(tmp_path, template="speechalign", instruction="")
    assert prompted(plain, dialogue) == "[Human] : w3 w4 <eoh> [SpeechGPT] :"


def test_earlier_turns_stand_as_they_were_written_and_messages_of_a_turn_stand_together(tmp_path: Path) -> None:
    model = small_codec_lm(tmp_path)
    turns = (heard("7"), Message("user", "w1"), Message("assistant", "w2", AudioClip("5,6")), Message("user", "w3"))
    told = "[Human] : ^ 7 $ w1 <eoh> . [SpeechGPT] : [ta] w2 ; [ua] ^ 5 6 $ <eoa> . [Human] : w3 <eoh> . [SpeechGPT] :"
    assert prompted(model, Dialogue("d", turns)) == told
    row = model.encode_prompt(Dialogue("d", turns), codes_of)
    assert set(row.roles.flatten().tolist()) == {int(Role.PROMPT)}
    feeding = small_codec_lm(tmp_path, feed_user_text=True)
    assert prompted(feeding, Dialogue("d", (heard("7", "w1"),))) == "[Human] : w1 ^ 7 $ <eoh> . [SpeechGPT] :"


def test_speaking_alone_is_a_choice_and_so_are_merged_repeats(tmp_path: Path) -> None:
    dialogue = target("w3", [3, 3, 1, 3], heard("7,7,7"))
    assert answered(small_codec_lm(tmp_path, say_text=False), dialogue) == ["^ 3 3 1 3 $ <eoa>"]
    merged = small_codec_lm(tmp_path, say_text=False, merge_repeats=True)
    assert answered(merged, dialogue) == ["^ 3 1 3 $ <eoa>"]
    assert prompted(merged, dialogue) == "[Human] : ^ 7 $ <eoh> . [SpeechGPT] :"


def test_delays_shift_the_codebooks_and_stream_0_waits_for_the_latest(tmp_path: Path) -> None:
    model = small_codec_lm(tmp_path, delays=(0, 1, 3))
    dialogue = target("w3", [1, 2, 3, 4, 5, 6], heard("7,8,9"))
    assert answered(model, dialogue) == [
        "[ta] w3 ; [ua] ^ 1 4 $ B B <eoa>",
        "B B B B B B 2 5 B B B",
        "B B B B B B B B 3 6 B",
    ]
    assert roles_of(model, dialogue) == ["ttttmaamffm", "ffffffaafff", "ffffffffaaf"]
    asked = picture(model, model.encode_prompt(dialogue, codes_of).ids)
    assert asked[0] == "[Human] : ^ 7 $ B B <eoh> . [SpeechGPT] :"
    assert asked[1] == "B B B B 8 B B B B B B" and asked[2] == "B B B B B B 9 B B B B"
    assert model.decode_completion(model.encode_target(dialogue, codes_of)).codes == (1, 2, 3, 4, 5, 6)


def test_the_first_codebooks_of_a_frame_are_written_and_the_others_left_to_a_nar(tmp_path: Path) -> None:
    dialogue = target("", [1, 2, 3, 4, 5, 6])
    first = small_codec_lm(tmp_path, codes_per_frame=3, codebooks=1)
    assert answered(first, dialogue) == ["^ 1 4 $ <eoa>"] and first.tokens.frame_codes == 1
    two = small_codec_lm(tmp_path, codes_per_frame=3, codebooks=2)
    assert answered(two, dialogue) == ["^ 1 2 4 5 $ <eoa>"] and two.tokens.frame_codes == 2
    streams = small_codec_lm(tmp_path, codes_per_frame=3, delays=(0, 1))
    assert answered(streams, dialogue)[1] == "B B 2 5 B" and streams.tokens.frame_codes == 2
    flat = small_codec_lm(tmp_path, codes_per_frame=3)
    assert answered(flat, dialogue) == ["^ 1 2 3 4 5 6 $ <eoa>"] and flat.tokens.frame_codes is None
    with pytest.raises(DataError, match="5 ids, no multiple of 3"):
        first.encode_target(target("", [1, 2, 3, 4, 5]), codes_of)


def test_an_answer_taken_apart_keeps_what_is_well_formed(tmp_path: Path) -> None:
    model = small_codec_lm(tmp_path, transcript=True)
    row = model.encode_target(target("w3 w4", [3, 1, 4], heard("7", "w1 w2")), codes_of)
    for length, text, codes in (
        (2, "w1 w2", ()),
        (5, "w3", ()),
        (6, "w3 w4", ()),
        (8, "w3 w4", ()),
        (11, "w3 w4", (3, 1)),
    ):
        cut = model.decode_completion(TokenSequence(row.ids[:, :length], row.roles[:, :length]))
        assert (cut.text, cut.codes, cut.finished) == (text, codes, False)
    two = small_codec_lm(tmp_path, delays=(0, 1))
    row = two.encode_target(target("w3", [1, 2, 3, 4]), codes_of)
    broken = row.ids.clone()
    broken[1, 6] = 8  # the second code of the first frame becomes a word
    assert two.decode_completion(TokenSequence(broken, row.roles)).codes == (3, 4)


def test_what_a_dialogue_cannot_say_is_an_error_that_names_it(tmp_path: Path) -> None:
    model = small_codec_lm(tmp_path, transcript=True)
    for text, token in (("w1 <eoh>", "<eoh>"), ("<3>", "<3>"), ("w1 <sosp>", "<sosp>")):
        with pytest.raises(DataError, match=f"dialogue d: the text spells the control token {token}"):
            model.encode_prompt(Dialogue("d", (Message("user", text),)), codes_of)
    with pytest.raises(DataError, match="cannot write 'stranger"):
        model.encode_target(target("stranger", [1, 2]), codes_of)
    with pytest.raises(DataError, match=r"spells .*\[ta\]"):
        model.encode_target(target("w1 [ta] w2", [1]), codes_of)
    with pytest.raises(DataError, match="the words of the spoken question are not known"):
        model.encode_target(target("w1", [1], heard("7")), codes_of)
    with pytest.raises(DataError, match=f"outside 0..{NUM_CODES - 1}"):
        model.encode_prompt(spoken("d", [NUM_CODES]), codes_of)
    with pytest.raises(DataError, match="role 'tool' is not one of system, user, assistant"):
        model.encode_prompt(Dialogue("d", (Message("tool", "w1"),)), codes_of)
    with pytest.raises(DataError, match="holds no sound"):
        model.encode_prompt(Dialogue("d", (heard("1"),)), lambda clip: [])
    with pytest.raises(DataError, match="no messages"):
        model.encode_prompt(Dialogue("d", ()), codes_of)


def test_options_that_exclude_one_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no place for a transcript"):
        CodecLmParams(template="anygpt", transcript=True)
    with pytest.raises(ValidationError, match="say_text cannot be false"):
        CodecLmParams(transcript=True, say_text=False)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"delays": (1, 2)}, "do not begin with 0"),
        ({"delays": (0, 0)}, "less than 1 behind it"),
        ({"delays": (0, 1), "codebooks": 1}, "2 streams cannot write 1 of 2"),
        ({"codes_per_frame": 2, "codebooks": 3}, "1 streams cannot write 3 of 2"),
        ({"codes_per_frame": 2, "merge_repeats": True}, "one id per frame"),
        ({"num_heads": 3}, "no even multiple"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads"),
    )
    for changes, message in wrong:
        with pytest.raises(CheckpointError, match=message):
            small_codec_lm(tmp_path, **changes)
    with pytest.raises(CheckpointError, match="no preset 'huge'"):
        CodecLm(CodecLmParams(), source=ModelSource(None, "huge", write_tokenizer(tmp_path)))
    with pytest.raises(CheckpointError, match="base tokenizer"):
        CodecLm(CodecLmParams(), source=ModelSource(None, "tiny", None))


@pytest.mark.parametrize(("trunk", "theirs"), [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM")])
@pytest.mark.parametrize("tied", [True, False])
def test_one_stream_is_the_model_of_transformers(tmp_path: Path, trunk: str, theirs: str, tied: bool) -> None:
    """Logits of the whole row and greedy answers, on the weights and config that were saved."""
    model = small_codec_lm(tmp_path, trunk=trunk, tie_embeddings=tied)
    policy = lively_policy(model, scale=4.0)
    folder = str(tmp_path / "saved")
    model.save_layout(folder)
    save_weights(policy.state_dict(), folder)
    other: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    other.eval()
    assert type(other).__name__ == theirs
    prompts = [model.encode_prompt(spoken("d", codes), codes_of) for codes in ([1, 2, 3], [4])]
    batch = collate(prompts, model.tokens)
    with torch.no_grad():
        ours = policy.hidden(batch, frozenset({0}))[0] @ policy.head_weight(0).T
        for index, prompt in enumerate(prompts):
            logits = other(prompt.ids).logits[0]
            torch.testing.assert_close(ours[index, : prompt.length], logits, atol=1e-5, rtol=1e-5)
        state = policy.decode(prompts, group_size=1, need="all")
        chosen = []
        for _ in range(12):
            ids = (state.hidden()[:, 0] @ policy.head_weight(0).T).argmax(dim=-1, keepdim=True)
            chosen.append(ids)
            state.append(ids)
        for index, prompt in enumerate(prompts):
            found = other.generate(
                prompt.ids, attention_mask=torch.ones_like(prompt.ids), max_new_tokens=12, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            assert found[0, prompt.length :].tolist() == [int(ids[index]) for ids in chosen]


def test_two_streams_add_their_embeddings_and_leave_blanks_out(tmp_path: Path) -> None:
    """Against a plain Llama fed with the sum of embeddings."""
    model = small_codec_lm(tmp_path, delays=(0, 2), tie_embeddings=False)
    policy = lively_policy(model, scale=4.0)
    config = LlamaConfig(**{**model.sizes.config.to_dict(), "attn_implementation": "eager"})
    other: Any = LlamaForCausalLM(config)
    other.eval()
    known = {name: x for name, x in policy.state_dict().items() if not name.startswith("codebook_heads.")}
    other.load_state_dict(known)
    row = model.encode_target(target("w3", [1, 2, 3, 4, 5, 6]), codes_of)
    table, blank = policy.model.embed_tokens.weight, model.vocabulary.layout.blank
    summed = table[row.ids[0]].clone()
    for place, x in enumerate(row.ids[1].tolist()):
        summed[place] += table[x] if x != blank else 0.0
    with torch.no_grad():
        states = other.model(inputs_embeds=summed[None]).last_hidden_state
        ours = policy.hidden(collate([row], model.tokens), frozenset({0, 1}))
    torch.testing.assert_close(ours[0], states, atol=1e-5, rtol=1e-5)
    assert ours[0] is ours[1]
    heads = [policy.head_weight(0), policy.head_weight(1)]
    assert heads[0] is policy.get_parameter("lm_head.weight")
    assert heads[1] is policy.get_parameter("codebook_heads.0.weight")


def test_text_is_over_where_the_sound_begins(tmp_path: Path) -> None:
    for changes in ({}, {"delays": (0, 1)}):
        model = small_codec_lm(tmp_path, **changes)
        prompt = model.encode_prompt(spoken("d", [1, 2]), codes_of)
        row = model.encode_target(target("w3", [1, 2]), codes_of)
        with torch.inference_mode():
            state = lively_policy(model).decode([prompt], group_size=1, need="text")
            taken = 0
            while not bool(state.finished()):
                state.append(row.ids[None, :, taken])
                taken += 1
        assert taken == 5, "[ta] w3 ; [ua] and the mark"


def public_folder(folder: Path, **changes: Any) -> Path:
    """A Llama checkpoint as others write it: its tokenizer has a begin token and numbers of its own."""
    words = ("<unk>", "<s>", "</s>", *(f"w{i}" for i in range(5)), ":", ".", ";", "[ta]", "[ua]")
    tokens = ("<sosp>", "<eosp>", *(f"<{i}>" for i in range(6)), "[Human]", "[SpeechGPT]", "<eoh>", "<eoa>")
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Punctuation()])
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=base, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([*tokens, "[ta]", "[ua]"])
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    (folder / "README.md").write_text("not a part of it")
    found = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(found))
    return folder


def test_a_public_checkpoint_runs_and_is_saved_with_its_own_files(tmp_path: Path) -> None:
    folder = public_folder(tmp_path / "public")
    model = CodecLm(CodecLmParams(), source=ModelSource(str(folder), None, None))
    layout, names = model.vocabulary.layout, model.vocabulary.tokenizer.convert_ids_to_tokens
    assert (layout.num_codes, model.sizes.vocabulary_size, model.sizes.delays) == (6, 40, (0,))
    assert [names(x) for x in layout.ends] == ["<eoa>", "<eoh>", "</s>"] and model.tokens.pad == layout.ends[0]
    row = model.encode_target(target("w3 w4", [5, 0]), codes_of)
    assert picture(model, row.ids) == ["[ta] w3 w4 ; [ua] ^ 5 0 $ <eoa>"]
    policy = model.build_policy(seed=0)
    load_into(policy, str(folder), model.ignored_keys)
    other: Any = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    other.eval()
    with torch.no_grad():
        ours = policy.hidden(collate([row], model.tokens), frozenset({0}))[0] @ policy.head_weight(0).T
        torch.testing.assert_close(ours, other(row.ids).logits, atol=1e-5, rtol=1e-5)
    model.save_layout(str(tmp_path / "again"))
    copied = {path.name for path in (tmp_path / "again").iterdir()}
    own = {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
    assert copied == own
    assert all((tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes() for name in own)
    model.save_layout(str(folder))  # over itself: nothing happens


def test_a_tokenizer_that_begins_texts_does_so_once(tmp_path: Path) -> None:
    folder = public_folder(tmp_path / "public")
    text = json.loads((folder / "tokenizer.json").read_text())
    text["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(text))
    model = CodecLm(CodecLmParams(), source=ModelSource(str(folder), None, None))
    dialogue = target("w1", [1], heard("2"), Message("assistant", "w2"), Message("user", "w3"))
    told = "<s> [Human] : ^ 2 $ <eoh> . [SpeechGPT] : w2 <eoa> . [Human] : w3 <eoh> . [SpeechGPT] :"
    assert prompted(model, dialogue) == told
    assert answered(model, dialogue) == ["[ta] w1 ; [ua] ^ 1 $ <eoa>"]


def space_marked(kind: str) -> Tokenizer:
    """Byte-pair encodings that treat spaces as Llama's old and new tokenizers do, and as Qwen2's does."""
    tokenizer = Tokenizer(models.BPE())
    llama = kind != "qwen2"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace() if llama else pre_tokenizers.ByteLevel(add_prefix_space=False)
    corpus = [f"{words} ; : . {words}\n" for words in ("good day", "how are you", "fine and you")]
    signs = sorted(set("".join(corpus)) | set("[]tau▁ĠĊ\n"))
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=90, initial_alphabet=signs, show_progress=False)
    )
    tokenizer.decoder = decoders.Metaspace() if llama else decoders.ByteLevel()
    if kind == "old llama":
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif llama:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


@pytest.mark.parametrize("kind", ["old llama", "new llama", "qwen2"])
@pytest.mark.parametrize("template", ["speechgpt", "anygpt"])
def test_prompt_and_answer_are_the_ids_of_the_whole_text(tmp_path: Path, kind: str, template: TemplateName) -> None:
    """The public training code tokenises a dialogue in one piece; so do both parts here, end to end."""
    space_marked(kind).save(str(tmp_path / "tokenizer.json"))
    params = CodecLmParams(**{**SMALL, "template": template, "transcript": template == "speechgpt"})
    model = CodecLm(params, source=ModelSource(None, "tiny", str(tmp_path / "tokenizer.json")))
    dialogue = target(
        "fine and you", [3, 1], heard("7", "how are you"), Message("assistant", "fine"), heard("2", "good day")
    )
    whole = {
        "speechgpt": "[Human]: <sosp><7><eosp> <eoh>. [SpeechGPT]: fine<eoa>. [Human]: <sosp><2><eosp> <eoh>. "
        "[SpeechGPT]: good day; [ta] fine and you; [ua] <sosp><3><1><eosp><eoa>",
        "anygpt": "[Human]: <sosp><🗣️7><eosp><eoh>\n[MMGPT]: fine<eos>\n[Human]: <sosp><🗣️2><eosp><eoh>\n"
        "[MMGPT]: fine and you<eot>\n<sosp><🗣️3><🗣️1><eosp><eos>",
    }
    parts = [model.encode_prompt(dialogue, codes_of), model.encode_target(dialogue, codes_of)]
    ids = [x for part in parts for x in part.ids[0].tolist()]
    assert ids == model.vocabulary.tokenizer.encode(whole[template], add_special_tokens=False)
    answer = model.decode_completion(parts[1])
    assert (answer.text, answer.codes) == ("fine and you", (3, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral', type codec_lm reads llama and qwen2"),
        ({"use_sliding_window": True}, "sliding windows"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic' changes"),
        ({"vocab_size": 20}, "the embedding 20 rows"),
    ],
)
def test_checkpoints_that_cannot_be_run_say_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = public_folder(tmp_path / "public", **changes)
    with pytest.raises(CheckpointError, match=message):
        CodecLm(CodecLmParams(), source=ModelSource(str(folder), None, None))


def test_a_checkpoint_fixes_its_sizes_and_its_template(tmp_path: Path) -> None:
    folder = public_folder(tmp_path / "public")
    source = ModelSource(str(folder), None, None)
    CodecLm(CodecLmParams(hidden_size=32, num_codes=6, delays=(0,)), source=source)
    with pytest.raises(CheckpointError, match=r"num_layers 3 \(not 2\)"):
        CodecLm(CodecLmParams(num_layers=3), source=source)
    with pytest.raises(CheckpointError, match=r"the tokenizer lacks \[MMGPT\], <eot>, <🗣️0>, <eos>"):
        CodecLm(CodecLmParams(template="anygpt"), source=source)


def test_the_largest_preset_has_the_sizes_of_llama(tmp_path: Path) -> None:
    """LLaMA-7B has 6,738,415,616 parameters over 32,000 words."""
    model = CodecLm(CodecLmParams(), source=ModelSource(None, "7b", write_tokenizer(tmp_path)))
    found = model.dimensions()
    others = 2 * 4096 * (found.vocabulary - 32_000)
    assert found.parameters == 6_738_415_616 + others
    assert (found.layers, found.hidden, found.intermediate, found.key_value_width) == (32, 4096, 11008, 8192)


def test_groups_of_parameters(tmp_path: Path) -> None:
    model = small_codec_lm(tmp_path, delays=(0, 1), tie_embeddings=False)
    groups = {name.split(".0.")[0]: model.parameter_group(name) for name in model.parameter_shapes()}
    assert groups["lm_head.weight"] == "text_head" and groups["codebook_heads"] == "audio_head"
    assert groups["model.embed_tokens.weight"] == "embed" and groups["model.layers"] == groups["model.norm.weight"]
    with pytest.raises(ValueError, match="no parameter"):
        model.parameter_group("model.mimo_layers.0.weight")
    assert SMALL["num_layers"] == model.sizes.num_layers
