"""Knows how a peer gets an environment of its own, made from package names and kept for the next
run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import click

from install_llama_cpp import pinned

ROOT = Path(__file__).parents[2]


# CMAKE_ARGS of a build of llama.cpp. ggml's own "native" crashes in the picture encoder on CPUs
# with AMX (0.3.36), so that what a CPU has is named one by one. Without GGML_NATIVE it is AVX2,
# FMA, F16C and BMI2.
AVX2_BUILD = "-DGGML_NATIVE=OFF"
_AVX512 = {  # flag of a CPU -> option of ggml
    "avx512f": "GGML_AVX512",
    "avx512vbmi": "GGML_AVX512_VBMI",
    "avx512_vnni": "GGML_AVX512_VNNI",
    "avx512_bf16": "GGML_AVX512_BF16",
}
CPUINFO = Path("/proc/cpuinfo")  # Linux


def make_environment(
    folder: Path,
    requirements: Sequence[str],
    pip_args: Sequence[str],
    build: str = AVX2_BUILD,
) -> Path:
    """The environment's Python; made where it is missing, or was made from other requirements.

    llama.cpp in it is compiled with ``build``, CMAKE_ARGS. A requirement that begins with ``!`` is
    uninstalled again: a package requires it, and works without. One that begins with ``+`` is
    installed after that, by itself: it is the same module as one that was uninstalled.

    Raises:
        click.ClickException: pip cannot install them; the message has its last line.
    """
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    made_from = folder / "requirements.txt"
    listed = "\n".join(requirements) + "\n" + _own_sources(requirements)
    listed += f"# {build}\n" if _needs_llama_cpp(listed) else ""
    if made_from.is_file() and made_from.read_text() == listed:
        return python
    click.echo(f"making {folder} from {', '.join(requirements)}", err=True)
    venv.create(folder, with_pip=True, clear=True)
    native = (
        [str(_wheel(compiled_llama_cpp(folder.parent / "wheels", build)))]
        if _needs_llama_cpp(listed)
        else []
    )
    installed = [name for name in requirements if not name.startswith(("!", "+"))]
    unwanted = [name.removeprefix("!") for name in requirements if name.startswith("!")]
    instead = [name.removeprefix("+") for name in requirements if name.startswith("+")]
    steps = [["install", "--quiet", *native, *pip_args, *installed]]
    steps += [["uninstall", "--quiet", "--yes", *unwanted]] if unwanted else []
    steps += [["install", "--quiet", "--no-deps", *pip_args, *instead]] if instead else []
    for step in steps:
        command = [str(python), "-m", "pip", *step]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(
                f"pip cannot make {folder}: {(done.stderr.strip() or '?').splitlines()[-1]}"
            )
    made_from.write_text(listed)
    return python


def avx512_build() -> str | None:
    """CMAKE_ARGS for all of AVX-512 that this CPU has, None where it has none or does not say."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    options = sorted({option for flag, option in _AVX512.items() if flag in flags})
    if "GGML_AVX512" not in options:
        return None
    return " ".join([AVX2_BUILD, *(f"-D{option}=ON" for option in options)])


def compiled_llama_cpp(folder: Path, build: str) -> Path:
    """The folder with a wheel compiled with ``build``, CMAKE_ARGS, in ``folder``; takes 10 to 20
    minutes on two cores when it is new."""
    own = folder / hashlib.sha256(f"{pinned()} {build}".encode()).hexdigest()[:12]
    if not list(own.glob("llama_cpp_python-*.whl")):
        click.echo(f"compiling llama-cpp-python, {build}", err=True)
        wheel = ["wheel", "--quiet", "--no-deps", "--no-cache-dir"]
        wheel += ["--no-binary", "llama_cpp_python", "--wheel-dir", str(own), pinned()]
        environment = {**os.environ, "CMAKE_ARGS": build}
        subprocess.run([sys.executable, "-m", "pip", *wheel], check=True, env=environment)
    return own


def _wheel(folder: Path) -> Path:
    """The wheel itself: builds of one release bear one name, and pip would take either."""
    return next(folder.glob("llama_cpp_python-*.whl"))


def _own_sources(requirements: Sequence[str]) -> str:
    """A line that changes with our own package, where it is one of the requirements: an
    environment keeps a copy of it."""
    if not any(requirement.startswith(".") for requirement in requirements):
        return ""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "runtime").rglob("*.py")):
        digest.update(file.read_bytes())
    return f"# {digest.hexdigest()}\n"


def _needs_llama_cpp(requirements: str) -> bool:
    return "llama" in requirements
