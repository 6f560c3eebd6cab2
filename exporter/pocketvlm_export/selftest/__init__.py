"""What a device is compared with, see `pocketvlm.selftest`: written once the artifact has passed
the parity gate, by the runtime itself on the CPU. Imports neither torch nor onnx."""

from pocketvlm_export.selftest.make import write_self_test

__all__ = ["write_self_test"]
