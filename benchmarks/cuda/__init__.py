"""What `benchmarks/gpu.py` checks and measures."""
