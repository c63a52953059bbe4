"""`wavalign listen`: words, sound and verdicts on a terminal, a player where there is one, and the page."""

import json
import stat
from pathlib import Path

import pytest

from tests.engine.report.synthetic import QUESTIONS, write_run
from wavalign_cli import app as application

Said = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(write_run(tmp_path / "run"))


def test_words_sound_and_rewards(run: str, capsys: Said) -> None:
    assert application.main(["listen", run, "--dialogue", "d1"]) == 0
    out = capsys.readouterr().out
    question, reference, _, late = QUESTIONS[1]
    assert f"question   {question}" in out and f"answer     {late}" in out and f"reference  {reference}" in out
    assert "1.5 s" in out and "audio/a1-100.wav" in out and any(block in out for block in "▃▅▇█")
    assert "reward 4.5" in out and "speech none (no sound to hear)" in out
    assert application.main(["listen", run, "--before-after", "--count", "1"]) == 0
    told = capsys.readouterr()
    assert "before     Spiders live" in told.out and "after      It has eight." in told.out
    assert "1 more" in told.err


def test_json_for_programs(run: str, capsys: Said) -> None:
    assert application.main(["listen", run, "--best", "answer", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["dialogue"] for each in found] == ["d0", "d1"]
    (answer,) = found[0]["answers"]
    assert answer["values"] == {"reward": 4.5, "answer": 5.0, "speech": 3.5} and answer["step"] == 100


def test_a_player_plays_in_order_and_its_absence_is_said(
    run: str, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert application.main(["listen", run, "--dialogue", "d0", "--play"]) == 0
    assert "no player is installed here (looked for paplay" in capsys.readouterr().err
    programs = tmp_path / "bin"
    programs.mkdir()
    player = programs / "aplay"
    player.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/played\n')
    player.chmod(player.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{programs}:/bin:/usr/bin")
    assert application.main(["listen", run, "--dialogue", "d0", "--play"]) == 0
    played = [line.split("/")[-1] for line in (tmp_path / "played").read_text().splitlines()]
    assert played == ["q0.wav", "a0-100.wav", "ref0.wav"]


def test_the_page(run: str, tmp_path: Path, capsys: Said) -> None:
    page = tmp_path / "samples.html"
    assert application.main(["listen", run, "--page", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "data:audio/flac" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        (["--step", "7"], "no kept answer is that: step 7", "it kept: stage align, split heldout, step 0, 100"),
        (["--worst", "nonsense"], "no answer here has a value 'nonsense'", "they have: reward, answer"),
        (["--worst", "reward", "--best", "reward"], "--worst and --best are two orders", "name one"),
    ],
)
def test_what_is_not_there_says_what_is(run: str, capsys: Said, options: list[str], said: str, hint: str) -> None:
    assert application.main(["listen", run, *options]) == 2
    told = capsys.readouterr().err
    assert said in told and hint in told


def test_a_folder_of_no_run(tmp_path: Path, capsys: Said) -> None:
    assert application.main(["listen", str(tmp_path)]) == 5
    assert "name the folder of one run" in capsys.readouterr().err
