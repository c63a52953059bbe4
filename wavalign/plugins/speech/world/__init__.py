"""The embedded spoken world: a closed domain of facts, asked and answered aloud by a synthesizer."""
