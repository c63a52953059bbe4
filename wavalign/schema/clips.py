"""What one sound may take of the machine."""

from typing import final

from pydantic import Field

from wavalign.schema.base import Section


@final
class ClipLimits(Section):
    """Bounds on every sound that is read; one beyond them is an error that names it, and nothing is cut."""

    max_seconds: float = Field(default=300, gt=0, le=86_400)
    """Longest sound."""
    max_megabytes: float = Field(default=64, gt=0, le=4096)
    """Largest file, in MiB."""
    max_channels: int = Field(default=8, ge=1, le=256)
    """Most channels; they are mixed to one when they are read."""
