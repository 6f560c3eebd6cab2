"""ONNX Runtime: how sessions are opened, what graphs must look like, what this CPU needs."""
