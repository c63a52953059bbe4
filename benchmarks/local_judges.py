"""What the judges on this machine say of disturbed speech, and what they cost: the tables of docs/rewards/*.md.

    python benchmarks/local_judges.py [--sentences N] [--write]

About two minutes on a quiet core for three sentences by two voices; `--write` puts the tables into the pages. Needs the
extras `speech` and `natural`, resemblyzer and distillmos (`make env` installs them all).
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks.disturbing import CASES, SENTENCES, VOICES, Case, spoken
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.distillmos import predicted_quality
from wavalign.plugins.speech.facets import FACETS, UNITS, facets
from wavalign.plugins.speech.function_words import weighted_sounds
from wavalign.plugins.speech.quality import assess
from wavalign.plugins.speech.sounding import sounds
from wavalign.plugins.speech.speaker import speaker_embedding
from wavalign.plugins.speech.whisper import whisper
from wavalign.plugins.speech.word_errors import Weighted, weighted_errors

Values = Mapping[str, float]
Judge = Callable[[Waveform, Case], Values]
BEGIN, END = "<!-- table: python benchmarks/local_judges.py --write -->", "<!-- end of the table -->"


def speaker(sound: Waveform, case: Case) -> Values:
    """Cosine with the same words as spoken."""
    said, wanted = speaker_embedding(sound), speaker_embedding(spoken(case.voice, SENTENCES[case.sentence]))
    return {} if said is None or wanted is None else {"cosine": float(said @ wanted)}


def dnsmos(sound: Waveform, _: Case) -> Values:
    """All scores of DNSMOS."""
    found = assess(sound, overall=True)
    if found is None or found.overall is None or found.signal is None:
        return {}
    return {"p808": found.p808, "overall": found.overall, "sig": found.signal}


def distillmos(sound: Waveform, _: Case) -> Values:
    """Predicted quality."""
    found = predicted_quality(sound)
    return {} if found is None else {"score": found}


def words(sound: Waveform, case: Case) -> Values:
    """Accuracy of what Whisper hears against the sentence, by what counts."""
    heard, text = whisper(1).recognize(sound), SENTENCES[case.sentence]
    share = {
        name: max(0.0, 1.0 - weighted_errors(by(heard), by(text)) / sum(weight for _, weight in by(text)))
        for name, by in (("content", weighted_sounds), ("all", every_word))
    }
    return {**share, "exact": float(sounds(heard) == sounds(text))}


def every_word(text: str) -> tuple[Weighted, ...]:
    """Sounds that all count."""
    return tuple((each, 1.0) for each in sounds(text))


def prosody(sound: Waveform, case: Case) -> Values:
    """Facets of prosody."""
    return {str(name): value for name, value in facets(sound, SENTENCES[case.sentence]).items()}


JUDGES: Mapping[str, tuple[Judge, tuple[str, ...], int]] = {
    "speaker_similarity": (speaker, ("cosine",), 2),
    "speech_quality": (dnsmos, ("p808", "overall", "sig"), 2),
    "distillmos": (distillmos, ("score",), 2),
    "word_accuracy": (words, ("content", "all", "exact"), 2),
    "prosody": (prosody, FACETS, 1),
}
"""By page: who judges, what is shown, and its decimals."""


def main() -> int:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=3, choices=range(1, len(SENTENCES) + 1))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/rewards")
    given = parser.parse_args()
    for name, (judge, columns, decimals) in JUDGES.items():
        seconds, found = measured(judge, given.sentences)
        text = table(found, columns, decimals)
        print(f"\n{name}: {1000 * seconds:.0f} ms of one core for a sentence as it was spoken\n{text}", flush=True)
        if given.write:
            write(ROOT / f"docs/rewards/{name}.md", text)
    return 0


def measured(judge: Judge, sentences: int) -> tuple[float, dict[tuple[str, str], Values]]:
    """Processor seconds for a clean sentence, and mean values by case and voice; NaN where some have none."""
    judge(spoken(VOICES[0], SENTENCES[0]), Case(VOICES[0], 0))  # loads its weights
    found: dict[tuple[str, str], Values] = {}
    spent, clean = 0.0, next(iter(CASES))
    for case, disturb in CASES.items():
        for voice in VOICES:
            sounds_of_case = [(disturb(Case(voice, each)), Case(voice, each)) for each in range(sentences)]
            begun = time.process_time()
            values = [judge(*each) for each in sounds_of_case]
            spent += (time.process_time() - begun) * (case == clean)
            names = {name for each in values for name in each}
            found[case, voice] = {name: float(np.mean([each.get(name, np.nan) for each in values])) for name in names}
    return spent / (sentences * len(VOICES)), found


def table(found: Mapping[tuple[str, str], Values], columns: tuple[str, ...], decimals: int) -> str:
    """Means as Markdown, both voices in a cell."""
    units: dict[str, str] = {name: f" ({unit})" for name, unit in UNITS.items() if unit}
    lines = [f"| {' / '.join(VOICES)} | {' | '.join(each + units.get(each, '') for each in columns)} |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for case in CASES:
        cells = [
            " / ".join(_shown(found[case, voice].get(name), name, decimals) for voice in VOICES) for name in columns
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: float | None, name: str, decimals: int) -> str:
    if value is None or np.isnan(value):
        return "-"
    places = 0 if name in ("pitch", "level") else 2 if name == "pauses" else decimals
    return f"{value:.{places}f}"


def write(page: Path, text: str) -> None:
    """Put a table in its place of `page`."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN, 1)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
