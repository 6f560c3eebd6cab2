"""Builds a LLaVA-shaped checkpoint from real pretrained parts that come inside packages."""
