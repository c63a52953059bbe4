"""What `benchmarks/dpo_step.py` and `benchmarks/parity_trl.py` measure with: a point, frozen pairs, two contenders."""
