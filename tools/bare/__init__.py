"""Knows whether the wheel answers alone: in an environment that has nothing of this repository."""
