"""Knows how the client is compiled without its real libraries: which files become which module."""

from __future__ import annotations

import shutil
from pathlib import Path

from swift_client.toolchain import Toolchain

HERE = Path(__file__).parent
CLIENT = HERE.parents[1] / "clients" / "ios"
CORE, TOKENIZERS = CLIENT / "Sources/PocketVLMCore", CLIENT / "Sources/PocketVLMTokenizers"
# Compiled for Apple's systems alone: here they are parsed.
APPLE = (CLIENT / "Sources/PocketVLM", CLIENT / "App/PocketVLMApp")
_STRICT = ("-swift-version", "6", "-warnings-as-errors", "-j", "2")


def sources(folder: Path) -> list[Path]:
    """The Swift files of a module, wherever they lie in its folder."""
    return sorted(folder.rglob("*.swift"))


def build(toolchain: Toolchain) -> Path:
    """Compile everything that can be; the program that runs jobs.

    Raises:
        SwiftError: an error, or a warning.
    """
    shutil.rmtree(toolchain.build)
    toolchain.build.mkdir()
    _library(toolchain, "OnnxRuntimeBindings", HERE / "Stub", strict=False)
    _library(toolchain, "PocketVLMCore", CORE)
    _library(toolchain, "Tokenizers", HERE / "StubTokenizers", strict=False)
    _library(toolchain, "PocketVLMTokenizers", TOKENIZERS)
    parse(toolchain)
    return _program(toolchain)


def _program(toolchain: Toolchain) -> Path:
    driver = _copied(toolchain, HERE / "Driver")
    toolchain.swiftc(
        *_STRICT, "-O", "-parse-as-library", *driver, "-I", "/build", "-L", "/build",
        "-lPocketVLMCore", "-lOnnxRuntimeBindings", "-o", "/build/driver",
    )  # fmt: skip
    return toolchain.build / "driver"


def parse(toolchain: Toolchain) -> None:
    """Parse what needs Apple's frameworks, which says that it is Swift and no more."""
    for folder in APPLE:
        toolchain.swiftc("-frontend", "-parse", "-swift-version", "6", *_copied(toolchain, folder))


def check_against_the_pod(toolchain: Toolchain) -> None:
    """Check the types of the client against the module of the pod, which has another name."""
    stub = _copied(toolchain, HERE / "Stub")
    folder = toolchain.build / "pod"
    folder.mkdir(exist_ok=True)
    toolchain.swiftc(
        "-swift-version", "6", "-parse-as-library", "-emit-module", "-module-name",
        "onnxruntime_objc", *stub, "-o", "/build/pod/onnxruntime_objc.swiftmodule",
    )  # fmt: skip
    toolchain.swiftc(
        *_STRICT, "-typecheck", "-parse-as-library", "-module-name", "PocketVLMCore",
        *_copied(toolchain, CORE), "-I", "/build/pod",
    )  # fmt: skip


def _library(toolchain: Toolchain, module: str, folder: Path, *, strict: bool = True) -> None:
    """A static library and the module beside it."""
    settings = _STRICT if strict else ("-swift-version", "6")
    toolchain.swiftc(
        *settings, "-O", "-parse-as-library", "-emit-library", "-static", "-emit-module",
        "-module-name", module, *_copied(toolchain, folder), "-I", "/build",
        "-o", f"/build/lib{module}.a",
    )  # fmt: skip


def _copied(toolchain: Toolchain, folder: Path) -> list[str]:
    """Copy a folder into the root; its files, relative to where they are compiled."""
    name = folder.name
    shutil.copytree(folder, toolchain.build / name, dirs_exist_ok=True)
    return [f"/build/{name}/{path.relative_to(folder).as_posix()}" for path in sources(folder)]
