"""Numbers that two implementations share: see `benchmarks/parity_trl.py`."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # CPO and ORPO live there
