"""Knows the one kind of error that people see: one line saying what was found, what was expected,
what to do next."""


class PocketVLMError(Exception):
    """A refusal meant for a person.

    The message is one line: what was found, what was expected, what to do next.
    The command line prints it without a traceback (unless ``--debug``) and exits with
    ``exit_code``.
    """

    exit_code: int = 1
