"""The demo checkpoint, exported once for all end-to-end tests."""

from pathlib import Path

import pytest

from pocketvlm_export import ExportOptions, export
from support.shared import write_once
from train_demo.__main__ import DEMO

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    return DEMO


@pytest.fixture(scope="session")
def demo_artifact(tmp_path_factory) -> Path:
    """By FasterVLM, which the tests spell out over transformers' modules; read only."""
    options = ExportOptions("fastervlm", budgets=(36, 144))
    return write_once(tmp_path_factory, "demo", lambda folder: export("demo", folder, options))


@pytest.fixture(scope="session")
def demo_default(tmp_path_factory) -> Path:
    """As `make demo` exports it, by the method that prunes where none is asked for; read only."""
    options = ExportOptions(budgets=(36, 144))
    return write_once(tmp_path_factory, "demo-default", lambda at: export("demo", at, options))
