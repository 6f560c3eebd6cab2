"""Text in and out: prompts and chat templates to token ids, token ids to text as it comes."""
