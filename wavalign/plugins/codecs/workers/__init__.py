"""Workers that come along; each runs under another interpreter, beside the official checkout it names."""

from pathlib import Path

_FOLDER = Path(__file__).parent
WORKERS = {"glm4voice": _FOLDER / "glm4voice_decoder.py", "kimi": _FOLDER / "kimi_detokenizer.py"}
