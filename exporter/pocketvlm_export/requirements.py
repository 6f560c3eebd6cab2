"""Knows which transformers release the exporter was written against, without importing it."""

from importlib import metadata

from packaging.requirements import Requirement

from pocketvlm.errors import RequestError

INSTALL = "pip install 'pocketvlm[export]'"


def check_transformers() -> None:
    """Refuse a transformers release outside the range that the ``[export]`` extra names: its model
    code is what runs.

    To be called before anything imports transformers: other releases may lack the very names that
    are imported.

    Raises:
        RequestError: it is not installed, or naming the installed and the tested versions.
    """
    requirements = [Requirement(text) for text in metadata.requires("pocketvlm") or []]
    tested = next(item.specifier for item in requirements if item.name == "transformers")
    try:
        installed = metadata.version("transformers")
    except metadata.PackageNotFoundError as error:
        raise RequestError("export needs more packages (transformers)", advice=INSTALL) from error
    if not tested.contains(installed, prereleases=True):
        raise RequestError(
            f"transformers {installed} is not tested with this exporter",
            expected=f"transformers {tested}",
            advice=f"pip install 'transformers{tested}'",
        )
