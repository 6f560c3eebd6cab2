"""The commands that measure: `profile`, `evaluate` and `questions`."""
