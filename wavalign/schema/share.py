"""A term's moving factor: `gate`, `1 - gate` or a number. The one place that reads it."""

from typing import final

from wavalign.schema.base import Section
from wavalign.schema.bounds import MOST_LETTERS, MOST_WEIGHT


@final
class Share(Section):
    """constant + slope * gate."""

    constant: float
    slope: float = 0.0

    @classmethod
    def parse(cls, share: str | float) -> "Share":
        """Read `gate`, `1 - gate` or a number >= 0, the only shares there are; anything else is a ValueError."""
        words = "".join(share.split()) if isinstance(share, str) else share
        if words == "gate":
            return cls(constant=0.0, slope=1.0)
        if words == "1-gate":
            return cls(constant=1.0, slope=-1.0)
        try:
            constant = float(words)
        except ValueError:
            constant = -1.0
        if not 0 <= constant <= MOST_WEIGHT:
            said = f"{share!r}" if len(str(share)) <= MOST_LETTERS else f"a text of {len(str(share))} letters"
            raise ValueError(f"a share is `gate`, `1 - gate` or a number from 0 to {MOST_WEIGHT:g}, not {said}")
        return cls(constant=constant)

    @property
    def moves(self) -> bool:
        """Whether the share follows the gate."""
        return self.slope != 0

    def value(self, gate: float | None) -> float:
        """The factor at `gate`, which may be None only where the share does not move."""
        if not self.moves:
            return self.constant
        if gate is None:
            raise ValueError("a share refers to the gate, and there is none")
        return self.constant + self.slope * gate

    def __str__(self) -> str:
        if not self.moves:
            return f"{self.constant:g}"
        return "gate" if self.slope > 0 else "1 - gate"
