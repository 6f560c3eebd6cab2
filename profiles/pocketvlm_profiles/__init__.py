"""Knows deployment targets; imports neither the runtime nor the exporter."""
