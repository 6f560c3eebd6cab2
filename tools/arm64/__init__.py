"""Runs the runtime on an emulated arm64 machine and holds its answers against this machine's."""
