"""`pocketvlm serve`: an artifact behind HTTP, in OpenAI's words. Needs the extra ``[serve]``.

The process that listens has no model. A child process has it, and is started again when it dies.
"""
