"""PocketVLM's exporter: turns a Hugging Face checkpoint into an artifact; runs at build time, not on the device."""
