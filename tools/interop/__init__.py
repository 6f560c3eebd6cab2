"""Checks that another client, transformers.js, answers from an exported folder as Hugging Face
does."""
