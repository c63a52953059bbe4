"""English words that carry grammar rather than content: articles, pronouns, prepositions, auxiliaries, conjunctions.

They are heard in nearly any answer (`it is ...`), so agreement in them is no evidence. Negations are no function words
here: an answer turns on them. Nor are numbers, though they may be heard as one (`four`, `for`).
"""

from wavalign.plugins.speech.sounding import sounds
from wavalign.plugins.speech.word_errors import Weighted
from wavalign.plugins.speech.wording import tokens

FUNCTION_WORDS = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "every", "i", "me", "my", "mine",
    "we", "us", "our", "ours", "you", "your", "yours", "he", "him", "his", "she", "her", "hers", "it", "its",
    "they", "them", "their", "theirs", "myself", "yourself", "himself", "herself", "itself", "ourselves",
    "themselves", "who", "whom", "whose", "which", "what", "am", "is", "are", "was", "were", "be", "been", "being",
    "do", "does", "did", "done", "doing", "have", "has", "had", "having", "will", "would", "shall", "should", "can",
    "could", "may", "might", "must", "i'm", "i've", "i'd", "i'll", "you're", "you've", "you'll", "he's", "she's",
    "it's", "we're", "we've", "we'll", "they're", "they've", "they'll", "that's", "there's", "what's", "here's",
    "let's", "in", "on", "at", "by", "for", "from", "of", "to", "with", "about", "into", "onto", "over", "under",
    "through", "during", "between", "among", "against", "upon", "as", "than", "and", "or", "but", "so", "if",
    "then", "because", "while", "when", "where", "why", "how", "there", "here", "also", "just", "very", "too",
    "really", "well", "oh", "ah", "uh", "um", "please",
})  # fmt: skip


def weighted_sounds(text: str) -> tuple[Weighted, ...]:
    """How the words of `text` sound, in order, and 0 of a function word, 1 of every other (`speech.sounding`)."""
    pairs = zip(sounds(text), tokens(text), strict=True)
    return tuple((sound, float(word not in FUNCTION_WORDS)) for sound, word in pairs)
