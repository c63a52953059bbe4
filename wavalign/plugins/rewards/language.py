"""Is the text in the language that was wanted? The share of its letters that are of the script, and who identifies it.

    r = share of letters of `scripts`, times 0 where `fewest_words` or more words are held for another language

A text without letters (`12`) is of any language. Identifying the language of a few words is guessing: below
`fewest_words` only the script counts. Made to be a guard. Source: own; py3langid (Lui and Baldwin's langid.py, 2012).
"""

from typing import Literal, Self, final

from pydantic import Field, model_validator

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.languages import check_languages, language_of, script_share
from wavalign.plugins.speech.wording import tokens
from wavalign.schema.base import Params

Script = Literal[
    "latin",
    "cyrillic",
    "greek",
    "arabic",
    "hebrew",
    "devanagari",
    "bengali",
    "tamil",
    "thai",
    "hangul",
    "han",
    "japanese",
]


@final
class LanguageParams(Params):
    """Which language and script are wanted: one of the two at least."""

    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    """ISO 639-1 code, e.g. `en`; null looks at scripts alone. Needs the extra `guards`."""
    scripts: tuple[Script, ...] = Field(default=(), max_length=100)
    """Scripts that letters may be of, e.g. [latin]; empty takes any."""
    fewest_words: int = Field(default=6, ge=1, le=1000)
    """Words (characters of scripts without spaces) from which on the language is identified."""
    sure: float = Field(default=0.5, ge=0, le=1)
    """Probability that another language must have to be believed."""

    @model_validator(mode="after")
    def _wants_something(self) -> Self:
        if self.language is None and not self.scripts:
            raise ValueError("nothing is wanted: set language, scripts or both")
        return self


@final
class Language(Reward):
    """From 0 to 1."""

    Params = LanguageParams
    needs = frozenset({"text"})
    range = (0.0, 1.0)
    params: LanguageParams

    @classmethod
    def instrument(cls, params: LanguageParams) -> str:
        return "" if params.language is None else "py3langid"

    def __init__(self, params: LanguageParams) -> None:
        super().__init__(params)
        if params.language is not None:
            check_languages(params.language)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        text = rollout.answer.text
        if not text.strip():
            return Scored.absent("the answer has no text")
        share = script_share(text, self.params.scripts) if self.params.scripts else None
        value, reason = (1.0, "") if share is None else (share, f"{share:.0%} of the letters are of the script")
        if self.params.language is not None and len(tokens(text)) >= self.params.fewest_words:
            found, sure = language_of(text)
            if found != self.params.language and sure >= self.params.sure:
                value, reason = 0.0, f"held for `{found}` ({sure:.2f})"
            return Scored(value, reason if value < 1 else "", {"language": found, "probability": sure})
        return Scored(value, reason if value < 1 else "")
