"""Codes that a record states, held against what a checkpoint has places for."""

from wavalign.errors import DataError
from wavalign.plugins.batch import Dialogue


def check_codes(dialogue: Dialogue, *, num_codes: int, frame: int = 1) -> None:
    """Raise DataError where a turn states codes outside 0..`num_codes` - 1, or a part of a frame of `frame` ids."""
    turns = [(f"messages.{place}", turn) for place, turn in enumerate(dialogue.messages)]
    turns += [("the answer", dialogue.target)] if dialogue.target is not None else []
    for place, turn in turns:
        codes = () if turn.audio is None or turn.audio.codes is None else turn.audio.codes
        wrong = next((index for index, code in enumerate(codes) if not 0 <= code < num_codes), None)
        if wrong is not None:
            raise DataError(
                f"dialogue {dialogue.id}: {place}: codes[{wrong}] is {codes[wrong]}, and the model has the ids "
                f"0..{num_codes - 1}",
                hint="codes count from 0 and are of the codec that the model was made for",
            )
        if len(codes) % frame:
            raise DataError(
                f"dialogue {dialogue.id}: {place}: {len(codes)} codes are no whole frames of {frame}",
                hint="codes come frame by frame, of each frame those that the model writes",
            )
