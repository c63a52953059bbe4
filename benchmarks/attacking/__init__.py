"""Answers made to fool a reward, and what every built-in reward is expected to say of them."""
