"""What `benchmarks/grpo_step.py` measures with: the settings of a point, frozen rollouts, three contenders."""
