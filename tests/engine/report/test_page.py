"""The page: its numbers are the metrics', hostile text stays text, sound is inside."""

import base64
import io
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import soundfile

from tests.engine.report import synthetic
from tests.engine.report.page_reader import Page
from wavalign.engine.report.cards import before_and_after
from wavalign.engine.report.comparison import write_comparison
from wavalign.engine.report.data import read_run
from wavalign.engine.report.page import COLUMNS, card_views, duration, highlighted, write_report
from wavalign.engine.report.sound import SoundBox
from wavalign.errors import DataError
from wavalign.redaction import REDACTOR


@pytest.fixture
def page(run_folder: Path) -> Page:
    """The page of the finished synthetic run."""
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    return Page(path)


def cell(page: Page, metric: str, label: str) -> tuple[float, float, float]:
    attributes = page.cells["heldout", metric][label]
    value, low, high = (float(attributes[f"data-{key}"] or "nan") for key in ("value", "low", "high"))
    return value, low, high


def test_table_holds_values_and_intervals_of_the_metrics(page: Page) -> None:
    for when, values in (("before", synthetic.BEFORE), ("after", synthetic.AFTER)):
        for name, (value, half, _) in values.items():
            assert cell(page, name, when) == (value, value - half, value + half)
    assert cell(page, "speech_wer", "gold") == (0.04, 0.04 - 0.01, 0.04 + 0.01)


def test_change_is_marked_only_where_intervals_are_apart(page: Page) -> None:
    changes = {name: page.cells["heldout", name]["change"] for name in synthetic.BEFORE}
    assert float(changes["answer_accuracy"]["data-value"] or "nan") == 0.5
    assert {name: part["data-apart"] for name, part in changes.items()} == {
        "answer_accuracy": "yes",
        "speech_wer": "no",
        "words": "yes",
    }
    assert "+0.500 toward gold" in page.words
    assert "−0.040 within the intervals" in page.words
    assert "+3.5 away from gold" in page.words


def test_page_says_what_was_run(page: Page) -> None:
    for said in (
        "synthetic-hybrid", "Synthetic numbers for the tests", "seed 7", "100 of 100", "2 min 39 s", "07ab34cd56ef",
        "synthetic processor, 8 cores", "torch 2.13.0", "wavalign run synthetic.yaml", "no term asks for a KL",
        "After 100 of 100 steps, 2 of 3 held-out values moved beyond their 95 % intervals", "no sound to hear",
        "cut off", "share: 1 - gate",
    ):  # fmt: skip
        assert said in page.words, said
    assert "not finished" not in page.words


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = '"><script>evil()</script><img src=x onerror=evil()>'
    folder = synthetic.write_run(tmp_path / "run", name=evil)
    line = synthetic.train_line(101) | {f"reward/{evil}": 1.0, f"loss/{evil}": 1.0}
    held_out = synthetic.evaluation_line(101, {evil: (0.5, 0.1, 0.9)}, split=evil)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(f"{json.dumps(line)}\n{json.dumps(held_out)}\n")
    (folder / "recipe.resolved.yaml").write_text(f"name: '{evil}'\n{evil}: 1\n", encoding="utf-8")
    page = Page(write_report(folder))
    assert len(page.scripts) == 1
    assert "evil()" not in page.scripts[0]
    assert not page.all("img")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.words.count("<script>evil()</script>") >= 4
    assert synthetic.HOSTILE in page.words


def test_every_tag_is_closed(page: Page) -> None:
    assert page.open == []


def test_nothing_is_fetched(page: Page) -> None:
    addresses = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert addresses
    assert all((value or "").startswith(("data:", "#")) for value in addresses)
    assert not re.search(r"url\(|@import|https?://", page.source)


def test_sound_is_inside_as_16_bit_mono(page: Page) -> None:
    clips = page.all("audio")
    assert len(clips) == 4 + 3  # two dialogues: question, before, after, reference; one answer has no sound
    seconds = []
    for clip in clips:
        head, encoded = (clip["src"] or "").split(",", 1)
        assert head == "data:audio/flac;base64"
        with soundfile.SoundFile(io.BytesIO(base64.b64decode(encoded))) as sound:
            assert (sound.subtype, sound.channels, sound.samplerate) == ("PCM_16", 1, 16_000)
            seconds.append(round(len(sound) / sound.samplerate, 1))
    assert seconds == [1.2, 2.5, 1.5, 1.9, 1.2, 1.5, 1.9]
    assert all(clip["aria-label"] for clip in clips)


def test_sound_beyond_the_budget_is_left_out_and_said(run_folder: Path) -> None:
    whole = SoundBox()
    question = whole.player(whole.read(run_folder / "audio/q0.wav"), 1.2)
    assert question is not None
    box = SoundBox(budget=round(1.01 * (len(question.url) - len("data:audio/flac;base64,"))))
    views, _ = card_views(before_and_after(read_run(run_folder)), COLUMNS, box, {})
    assert (box.embedded, box.left_out) == (1, 6)
    assert views[0].sound is not None
    assert views[0].sides[0].sound is None
    assert views[0].sides[0].sound_note == "Its sound is not in this page."


def test_fast_sound_is_brought_down(tmp_path: Path) -> None:
    path = tmp_path / "fast.wav"
    soundfile.write(path, synthetic.tone(0.5, 200, sample_rate=48_000).samples, 48_000)
    sound = SoundBox().read(path)
    assert sound is not None
    assert (sound.sample_rate, len(sound.samples)) == (24_000, 12_000)


def test_missing_sound_file_becomes_a_note(run_folder: Path) -> None:
    (run_folder / "audio/ref0.wav").unlink()
    page = Page(write_report(run_folder))
    assert "Sound could not be read" in page.words
    assert "The sound of this reference is not in this page." in page.words


def test_page_of_a_run_that_goes_on_says_so(run_folder: Path) -> None:
    (run_folder / "finished.json").unlink()
    lines = [synthetic.evaluation_line(0, synthetic.BEFORE), *(synthetic.train_line(step) for step in range(1, 38))]
    synthetic.write_lines(run_folder / "metrics.jsonl", lines)
    with (run_folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"stage": "al')
    page = Page(write_report(run_folder))
    assert "This run is not finished: 37 of 100 steps are logged." in page.words
    assert "metrics.jsonl, line 39 is torn" in page.words
    assert "data-value" not in page.cells["heldout", "words"]["after"]


def test_run_without_held_out_samples_shows_rollouts(run_folder: Path) -> None:
    lines = [line | {"split": "train"} for line in synthetic.rollout_lines(run_folder)]
    synthetic.write_lines(run_folder / "rollouts.jsonl", lines)
    page = Page(write_report(run_folder))
    assert "Training answers" in page.words
    assert "It is Paris." in page.words
    assert 'href="#samples"' not in page.source


def test_folder_with_metrics_alone_gives_a_page(tmp_path: Path) -> None:
    synthetic.write_lines(tmp_path / "metrics.jsonl", [synthetic.train_line(1)])
    assert "plan.json is not there." in Page(write_report(tmp_path)).words


def test_no_run_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_charts_and_figures_are_named_for_those_who_listen(page: Page) -> None:
    charts = [attributes for attributes in page.all("svg") if attributes.get("class") == "chart"]
    assert len(charts) == 20
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "not logged"), (4.25, "4.2 s"), (159.0, "2 min 39 s"), (3600.0 * 5 + 61, "5 h 01 min")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_recipe_keys_are_coloured_and_values_escaped() -> None:
    assert highlighted("# <c>\n- a.b: <x>\nplain") == (
        '<span class="c"># &lt;c&gt;</span>\n- <span class="k">a.b</span>: &lt;x&gt;\nplain'
    )


def test_hostile_outcomes_stay_text(tmp_path: Path) -> None:
    """What was heard, names of values and what they mean, styles, questions: on the page of a run and of several."""
    evil = '"><script>evil()</script><img src=x onerror=evil()>'
    folders = []
    for name in ("a", "b"):
        folder = synthetic.judged_run(tmp_path / name, {evil: "0011"}, {evil: "1011"}, name=name)
        shown = {"heard": evil, "style_asked": evil, "style_measured": evil, evil: evil}
        lines = [
            synthetic.outcome(step, item, evil, values={evil: 1.0}, details=shown)
            | {"question": evil, "reference": evil}
            for step in (0, 100)
            for item in range(2)
        ]
        train = lines[0] | {"split": "train", "group": 0, "detail/x/heard": evil, "reason/x": evil, "reward/x": None}
        synthetic.write_lines(folder / "evaluation.jsonl", lines)
        synthetic.write_lines(folder / "rollouts.jsonl", [*lines, train])
        (folder / "measures.json").write_text(json.dumps({evil: {"says": evil, "unit": evil, "metric": evil}}))
        folders.append(folder)
    for page in (Page(write_report(folders[0])), Page(write_comparison(folders, tmp_path / "comparison.html"))):
        assert len(page.scripts) == 1
        assert not page.all("img")
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert page.open == []
        assert page.words.count("<script>evil()</script>") >= 10


def test_no_secret_gets_from_an_outcome_onto_the_page(tmp_path: Path) -> None:
    secret = "s3cr3t-value-of-a-judge"
    folder = synthetic.judged_run(tmp_path / "run", {"text_right": "01"}, {"text_right": "10"})
    lines = [
        synthetic.outcome(step, item, secret, values={"text_right": float(item)}, details={"heard": secret})
        for step in (0, 100)
        for item in range(2)
    ]
    synthetic.write_lines(folder / "evaluation.jsonl", lines)
    synthetic.write_lines(folder / "rollouts.jsonl", lines[2:])
    REDACTOR.learn(secret, "${env:KEY}")
    try:
        page = write_report(folder).read_text(encoding="utf-8")
    finally:
        REDACTOR.forget()
    assert "${env:KEY}" in page
    assert secret not in page
