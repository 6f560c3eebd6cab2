"""Knows which names programs may use, and under which headings the page has them.

What `pocketvlm.__all__` lists is all here, which a test holds, with what the other pages promise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chapter:
    """Names of one module under a heading.

    Attributes:
        title: the heading.
        module: where programs import them from.
        names: in the order of the page.
        about: a line below the heading.
    """

    title: str
    module: str
    names: tuple[str, ...]
    about: str


CHAPTERS = (
    Chapter(
        "Loading and asking",
        "pocketvlm",
        ("VLM", "Answer", "Chat", "Guided", "Sampling", "Artifact", "__version__"),
        "What answers questions, and what comes back.",
    ),
    Chapter(
        "Settings and limits",
        "pocketvlm",
        (
            "EngineSettings",
            "Provider",
            "Limits",
            "PictureLimits",
            "VideoLimits",
            "FeatureLimits",
            "SequenceLimits",
        ),
        "How engines are opened, what is refused for its size, and what is kept for how long.",
    ),
    Chapter(
        "Limits for measuring",
        "pocketvlm.limits",
        ("NOTHING_KEPT",),
        "Imported from `pocketvlm.limits`.",
    ),
    Chapter(
        "Drawings",
        "pocketvlm.vision.overlay",
        ("draw_budgets",),
        "Imported from `pocketvlm.vision.overlay`.",
    ),
    Chapter(
        "Errors",
        "pocketvlm",
        ("PocketVLMError",),
        "One class for all refusals. Its subclasses say what was at fault.",
    ),
    Chapter(
        "Kinds of errors",
        "pocketvlm.errors",
        ("ArtifactError", "CheckpointError", "PictureError", "RequestError", "EngineError"),
        "Imported from `pocketvlm.errors`.",
    ),
    Chapter(
        "What calls return",
        "pocketvlm.text.streaming",
        ("Stream",),
        "Made by `VLM.stream` and `Chat.stream`; a program need not import it.",
    ),
    Chapter(
        "What a pair returns",
        "pocketvlm.answer",
        ("GuidedAnswer",),
        "Made by `Guided.generate`; a program need not import it.",
    ),
    Chapter(
        "Exporting",
        "pocketvlm_export",
        ("export", "ExportOptions", "ExportReport"),
        "On the machine that exports, with the extra `[export]`: torch and transformers.",
    ),
    Chapter(
        "A gate that fails",
        "pocketvlm_export.verification",
        ("ParityError",),
        "Raised by `export`.",
    ),
)

# What has no docstring of its own, since it is a plain value.
VALUES = {
    "__version__": """The version of the package.

>>> from importlib.metadata import version
>>> from pocketvlm import __version__
>>> __version__ == version("pocketvlm")
True
""",
    "NOTHING_KEPT": """`Limits` that keep nothing: every answer computes all that it needs, as the
first one of a process.

>>> from pocketvlm import VLM
>>> from pocketvlm.limits import NOTHING_KEPT
>>> vlm = VLM.load("demo-vlm", limits=NOTHING_KEPT)
>>> first = vlm.generate("What is red?", images=["examples/scene-3.png"])
>>> vlm.generate("What is red?", images=["examples/scene-3.png"]).prompt_tokens["cached"]
0
""",
}
