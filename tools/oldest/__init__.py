"""Knows how the lowest releases that pyproject.toml allows are tried.

``make test-oldest`` makes an environment of the runtime's dependencies and its extras, each at the
lowest release of its range, and runs the runtime's tests that need neither torch nor transformers.
Not tried are the exporter's: of torch's lowest release PyPI has the CUDA build for Linux alone. By
hand, beside torch 2.13, gguf and onnx_ir were found to begin later than their ranges said.
"""
