"""Group-relative policy optimization (GRPO): data, rewards, losses."""
