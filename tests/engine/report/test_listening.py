"""Which of the kept answers are listened to, and the page of them."""

import json
from pathlib import Path

import pytest

from tests.engine.report.synthetic import QUESTIONS, tone, write_run
from wavalign.engine.report.data import RunData, read_run
from wavalign.engine.report.evaluations import is_evaluation, read_evaluation
from wavalign.engine.report.listening import Choice, choose, values_of, write_page
from wavalign.errors import DataError, UsageError
from wavalign.plugins import audio


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    write_run(tmp_path / "run")
    return read_run(tmp_path / "run")


def test_the_last_held_out_answers_come_first(run: RunData) -> None:
    found = choose(run, Choice())
    assert [card.dialogue for card in found.cards] == ["d0", "d1"]
    (given,) = found.cards[0].answers
    assert given is not None and given.step == 100 and given.text.startswith(QUESTIONS[0][3])
    assert "heldout at step 100 of align" in found.says


def test_by_step_item_dialogue_and_count(run: RunData) -> None:
    early = choose(run, Choice(step=0))
    assert [card.any.text for card in early.cards] == [QUESTIONS[0][2], QUESTIONS[1][2]]
    (only,) = choose(run, Choice(dialogue="d1")).cards
    assert only.dialogue == "d1"
    few = choose(run, Choice(count=1))
    assert (len(few.cards), few.left_out) == (1, 1)


def test_before_and_after_stand_side_by_side(run: RunData) -> None:
    found = choose(run, Choice(both=True))
    assert [column.title for column in found.columns] == ["Before", "After"]
    steps = [[None if each is None else each.step for each in card.answers] for card in found.cards]
    assert steps == [[0, 100], [0, 100]]
    with pytest.raises(UsageError, match="first and the last measurement"):
        choose(run, Choice(both=True, step=3))


def test_the_best_and_the_worst_by_a_reward(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_run(folder)
    lines = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["reward/answer"] = None if number == 0 else float(number)
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(folder)

    def order(**asked: str) -> list[float]:
        cards = choose(run, Choice(step=100, **asked)).cards  # type: ignore[arg-type]
        values = [values_of(each)["answer"] for card in cards if (each := card.answers[-1]) is not None]
        return [value for value in values if value is not None]

    worst, best = order(worst="answer"), order(best="answer")
    assert worst == sorted(worst) and best == worst[::-1] and len(set(worst)) == len(worst) > 1
    with pytest.raises(UsageError, match="no answer here has a value 'nonsense'") as caught:
        choose(run, Choice(worst="nonsense"))
    assert "answer" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("choice", "said"),
    [(Choice(step=77), "step 77"), (Choice(split="none"), "split none"), (Choice(stage="x"), "stage x")],
)
def test_what_was_not_kept_says_what_was(run: RunData, choice: Choice, said: str) -> None:
    with pytest.raises(UsageError, match=f"no kept answer is that: {said}") as caught:
        choose(run, choice)
    assert "stage align, split heldout, step 0, 100" in (caught.value.hint or "")


def test_the_page_has_players_and_escapes_what_it_shows(run: RunData, tmp_path: Path) -> None:
    page = write_page(run, choose(run, Choice(both=True)), tmp_path / "listen.html").read_text(encoding="utf-8")
    assert page.count("data:audio/flac;base64,") >= 6
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "http" not in page.split("</style>", 1)[1].replace("http-equiv", "").replace("http://www.w3.org", "")


def evaluation(folder: Path, audio_path: str = "audio/0.wav") -> Path:
    (folder / "audio").mkdir(parents=True)
    audio.write(tone(1.0, 200), folder / "audio" / "0.wav")
    answer = {"place": 3, "dialogue": "q3", "text": "Six.", "finished": True, "seconds": 1.0, "audio": audio_path}
    score = {
        "place": 3, "question": "What is 2 times 3?", "correct": ["6"], "values": {"contains": 1.0, "rate": 0.5},
        "details": {"heard_own_text/heard": "sicks"},
    }  # fmt: skip
    values = {"contains": {"unit": "share", "better": "more"}, "rate": {"unit": "ratio", "better": "less"}}
    (folder / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    (folder / "scores.jsonl").write_text(json.dumps(score) + "\n")
    (folder / "summary.json").write_text(
        json.dumps({"suite": "ultraeval", "subset": "qa", "model": "m", "values": values})
    )
    return folder


def test_an_evaluation_is_listened_to_likewise(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "out")
    assert is_evaluation(folder) and not is_evaluation(tmp_path)
    run = read_evaluation(folder)
    (card,) = choose(run, Choice(best="contains")).cards
    given = card.any
    assert (given.question, given.text, given.reference) == ("What is 2 times 3?", "Six.", "6")
    assert (given.values, given.shown) == ({"contains": 1.0, "rate": 0.5}, {"heard": "sicks"})
    assert given.audio == (folder / "audio" / "0.wav").resolve()
    assert "data:audio/flac" in write_page(run, choose(run, Choice()), tmp_path / "p.html").read_text(encoding="utf-8")


def test_no_file_outside_the_folder_is_played(tmp_path: Path) -> None:
    audio.write(tone(1.0, 200), tmp_path / "secret.wav")
    assert choose(read_evaluation(evaluation(tmp_path / "out", "../secret.wav")), Choice()).cards[0].any.audio is None


def test_a_torn_answer_is_named(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "out")
    (folder / "answers.jsonl").write_text('{"place": 3')
    with pytest.raises(DataError, match=r"answers.jsonl:1: no answer"):
        read_evaluation(folder)
