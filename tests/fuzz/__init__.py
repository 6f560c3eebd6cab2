"""Hostile input by the ten thousand: one module a target, and the harness that counts what becomes
of each input. README.md says which threat each target covers."""
