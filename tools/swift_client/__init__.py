"""The Swift client compiled and run against ONNX Runtime behind a pipe."""
