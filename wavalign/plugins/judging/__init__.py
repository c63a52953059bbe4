"""What the `judge` reward is made of: rubrics, prompts, strict reading of replies, requests, limits, money."""
