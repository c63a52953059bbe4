"""A sentence to a sound in this process, by the speakers of either world; a corpus has processes of its own."""

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.espeak import Delivery
from wavalign.plugins.speech.synthesizer import synthesize
from wavalign.plugins.speech.world.natural_voices import speak_naturally
from wavalign.plugins.speech.world.speakers import AnyDelivery


def say(text: str, delivery: AnyDelivery) -> Waveform:
    """The sound of `text`."""
    return synthesize(text, delivery) if isinstance(delivery, Delivery) else speak_naturally(text, delivery)
