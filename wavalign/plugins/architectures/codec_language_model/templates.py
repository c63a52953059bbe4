"""How dialogues are put into words and units: the published templates.

    speechgpt    [Human]: {q} <eoh>. [SpeechGPT]: {transcript}; [ta] {text}; [ua] <sosp><12>...<7><eosp><eoa>
    anygpt       [Human]: {q}<eoh>\\n[MMGPT]: {text}<eot>\\n<sosp><🗣️12>...<🗣️7><eosp><eos>
    speechalign  [Human]: Read this text and give me a speech response: {q} <eoh> [SpeechGPT]: <sosp>...<eosp><eoa>

A question or answer that is sound alone is its units between <sosp> and <eosp>; an answer that is text alone is the
text. `[ta]` and `[ua]` announce the text and the units of an answer, and are words like any other.
Sources: SpeechGPT (arXiv 2305.11000), AnyGPT (arXiv 2402.12226), SpeechAlign (arXiv 2404.05600), and the public code of
the first two; of the third the template is published, the spaces before <eoa> are not.
"""

from dataclasses import dataclass
from typing import Literal, final

BEGIN_SPEECH, END_SPEECH = "<sosp>", "<eosp>"
BLANK = "<blank>"
TemplateName = Literal["speechgpt", "anygpt", "speechalign"]


@final
@dataclass(frozen=True, slots=True)
class Template:
    """The fixed text around what is said."""

    asker: str
    """Opens the user's turn."""
    asked: str
    """Closes the user's turn."""
    answerer: str
    """Opens the assistant's turn; what it says follows behind a space."""
    answered: str
    """Stands behind an earlier answer, before the next question."""
    ends: tuple[str, ...]
    """Tokens that end an answer; the first of them that a tokenizer knows closes targets."""
    unit: str
    """Name of a codec id in the vocabulary, `{}` for its number."""
    control: tuple[str, ...]
    """Single tokens of the template beside those above."""
    text_opens: str = ""
    """Stands before the text of a spoken answer."""
    text_closes: str = ""
    """Stands behind the text of a spoken answer, before its sound."""
    transcript_closes: str | None = None
    """Stands behind a transcript of the question, before the answer; None where the template writes no transcripts."""
    instruction: str = ""
    """Says before a written question what is to be done with it."""
    says_text: bool = True
    """Whether spoken answers hold their text too."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every single token of the template but the ends."""
        return (BEGIN_SPEECH, END_SPEECH, *self.control)

    @property
    def pieces(self) -> tuple[str, ...]:
        """Every text of the template, control tokens included."""
        between = (self.text_opens, self.text_closes, self.transcript_closes or "")
        return (self.asker, self.asked, self.answerer, self.answered, *between, self.instruction)


TEMPLATES: dict[TemplateName, Template] = {
    "speechgpt": Template(
        asker="[Human]: ",
        asked=" <eoh>. ",
        answerer="[SpeechGPT]:",
        answered=". ",
        ends=("<eoa>", "<eos>", "<eoh>"),
        unit="<{}>",
        control=("[Human]", "[SpeechGPT]", "<eoh>"),
        text_opens="[ta]",
        text_closes="; [ua] ",
        transcript_closes="; ",
    ),
    "anygpt": Template(
        asker="[Human]: ",
        asked="<eoh>\n",
        answerer="[MMGPT]:",
        answered="\n",
        ends=("<eos>", "<eoh>"),
        unit="<🗣️{}>",
        control=("[Human]", "[MMGPT]", "<eoh>", "<eot>"),
        text_closes="<eot>\n",
    ),
    "speechalign": Template(
        asker="[Human]: ",
        asked=" <eoh> ",
        answerer="[SpeechGPT]:",
        answered=". ",
        ends=("<eoa>", "<eos>", "<eoh>"),
        unit="<{}>",
        control=("[Human]", "[SpeechGPT]", "<eoh>"),
        instruction="Read this text and give me a speech response:",
        says_text=False,
    ),
}
