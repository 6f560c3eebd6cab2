"""Knows how the lowest releases that pyproject.toml allows are tried.

``make test-oldest`` makes an environment of the runtime's dependencies and its extras, each at the
lowest release of its range, and runs the runtime's tests that need neither torch nor transformers.
The exporter's ranges are not tried: of torch's lowest release PyPI has the CUDA build for Linux.
"""
