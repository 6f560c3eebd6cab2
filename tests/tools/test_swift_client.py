"""The Swift client's sources, as far as they can be checked without a compiler; `make swift`
compiles and runs them."""

import json
import re
from pathlib import Path

import pytest
import yaml

from swift_client.build import APPLE, CLIENT, CORE, TOKENIZERS, sources

ROOT = Path(__file__).parents[2]
EVERY = [path for folder in (CORE, TOKENIZERS, *APPLE) for path in sources(folder)]
IMPORTS = re.compile(r"^\s*(?:@\w+ )*import (?:class |struct )?(\w+)", re.MULTILINE)


def test_the_core_needs_foundation_and_onnx_runtime_alone():
    imported = {
        path.name: set(IMPORTS.findall(path.read_text(encoding="utf-8"))) for path in sources(CORE)
    }
    runtime = {"Foundation", "OnnxRuntimeBindings", "onnxruntime_objc"}
    assert imported.pop("Engine.swift") == runtime
    assert all(names <= {"Foundation"} for names in imported.values()), imported


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_sources_keep_the_house(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    assert not [line for line in lines if len(line) > 100 or "\t" in line or line != line.rstrip()]
    assert lines[0].startswith("//") or path.name == "PocketVLMApp.swift"


def test_every_file_of_the_package_belongs_to_a_target():
    package = (CLIENT / "Package.swift").read_text(encoding="utf-8")
    targets = set(re.findall(r'\.target\(\s*name: "(\w+)"', package))
    assert targets == {path.name for path in (CLIENT / "Sources").iterdir()}
    for module in ("onnxruntime", "Tokenizers"):
        assert f'.product(name: "{module}"' in package


def test_the_facts_are_those_that_the_exporter_writes():
    """Every key that the client reads is in the schema of using.json."""
    schema = json.loads(
        (ROOT / "exporter/pocketvlm_export/packaging/using.schema.json").read_text(encoding="utf-8")
    )
    stated = set(schema["properties"]) | {
        name
        for definition in (*schema["definitions"].values(), *schema["properties"].values())
        for name in definition.get("properties", ())
    }
    # Options are each layout's own, values of processors transformers'.
    source = (CORE / "Facts.swift").read_text(encoding="utf-8")
    head, _, options = source.partition("private struct Options")
    read = coding_keys(head) | coding_keys((CORE / "Pictures/Steps.swift").read_text("utf-8"))
    assert read - stated == {"repetition_penalty"}
    assert coding_keys(options) <= set(json_names(ROOT / "runtime/pocketvlm/layouts"))


def test_the_self_test_is_read_by_the_names_of_its_schema():
    text = (ROOT / "runtime/pocketvlm/selftest/selftest.schema.json").read_text(encoding="utf-8")
    read = coding_keys((CORE / "SelfTest/Expected.swift").read_text(encoding="utf-8"))
    assert read
    assert [name for name in read if f'"{name}"' not in text] == []


def test_the_project_of_the_app_names_what_is_there():
    app = CLIENT / "App"
    target = yaml.safe_load((app / "project.yml").read_text(encoding="utf-8"))["targets"]
    (stated,) = target.values()
    assert (app / stated["sources"][0]).is_dir()
    assert stated["info"]["properties"]["NSCameraUsageDescription"]


def coding_keys(source: str) -> set[str]:
    """The JSON names of a file's coding keys."""
    names = set()
    for block in re.findall(r"enum \w+: String, CodingKey \{(.*?)\}", source, re.DOTALL):
        for item in re.split(r",|\bcase\b", block):
            if item.strip():
                swift, _, json_name = item.partition("=")
                names.add(json_name.strip().strip('"') or swift.strip())
    return names


def json_names(folder: Path) -> set[str]:
    """Texts in quotes of a folder's modules."""
    texts = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    return set(re.findall(r'"(\w+)"', texts))
