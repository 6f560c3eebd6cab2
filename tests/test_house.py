"""The house: which package may import which, no circle between rooms, a runtime one can survey, no
entry of a registry asked for by its name.

A room is what lies directly in a package: a module, or a folder with all that is in it.
"""

import ast
import graphlib
import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from pocketvlm.layouts import LAYOUTS
from pocketvlm_export.decoder_stages import DECODER_STAGES
from pocketvlm_export.families import FAMILIES
from pocketvlm_export.pruning import PRUNERS
from pocketvlm_export.towers import TOWERS

ROOT = Path(__file__).parents[1]
# Where each package lies, and which others it may import.
PACKAGES = {
    "pocketvlm_targets": ("profiles", ()),
    "pocketvlm": ("runtime", ("pocketvlm_targets",)),
    "pocketvlm_measure": ("profiles", ("pocketvlm", "pocketvlm_targets")),
    "pocketvlm_export": ("exporter", ("pocketvlm", "pocketvlm_targets")),
}
# Files in a namespace of another distribution, in the wheel too: no package of ours.
NAMESPACES = {"plugins": "optimum"}
MAY_IMPORT = {package: allowed for package, (_, allowed) in PACKAGES.items()}
# Rooms of one package that must not know each other, though no circle forbids it.
STRANGERS = [("pocketvlm_measure.evaluation", "pocketvlm_measure.profiler")]
MOST_ROOMS = 21  # in the runtime
FOLDERS = (".venv-*/", "*.egg-info/")  # git ignores them, and so does the wheel
_ENTRY = re.compile(r"(pocketvlm\w*(?:\.\w+)+):\w+")  # "module:attribute", as registries write it


def modules_of(packages: Mapping[str, Path]) -> dict[str, Path]:
    """{dotted name: file} of every module of packages, given with their folders."""
    modules = {}
    for package, folder in packages.items():
        for file in folder.rglob("*.py"):
            parts = (package, *file.relative_to(folder).with_suffix("").parts)
            modules[".".join(parts).removesuffix(".__init__")] = file
    return modules


def imports(file: Path, *, types: bool) -> Iterator[str]:
    """The names that a module imports, anywhere in it, registry entries included; ``types`` adds
    those that only a type checker follows."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and (entry := _ENTRY.fullmatch(str(node.value))):
            yield entry[1]


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def edges(packages: Mapping[str, Path], *, types: bool) -> dict[str, dict[str, str]]:
    """{room: {room that it imports: a module that does}}, rooms of all packages."""
    modules = modules_of(packages)
    graph: dict[str, dict[str, str]] = {room_of(module): {} for module in modules}
    for module, file in modules.items():
        for name in imports(file, types=types):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and room_of(name) != room_of(module):
                graph[room_of(module)].setdefault(room_of(name), module)
    return graph


def forbidden(
    graph: Mapping[str, Mapping[str, str]], may_import: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """The imports from one package into another that are not allowed."""
    wrong = []
    for room, imported in graph.items():
        package = room.partition(".")[0]
        for other, module in imported.items():
            if other.partition(".")[0] not in (package, *may_import[package]):
                wrong.append(f"{module} imports {other}")
    return wrong


def circle(graph: Mapping[str, Mapping[str, str]]) -> str:
    """A circle of rooms that import each other, with the modules that do; empty where none does."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        rooms = error.args[1][::-1]  # given from the imported to the importing
        return "; ".join(
            f"{graph[room][other]} imports {other}" for room, other in itertools.pairwise(rooms)
        )
    return ""


@pytest.fixture(scope="module")
def packages() -> dict[str, Path]:
    return {package: ROOT / folder / package for package, (folder, _) in PACKAGES.items()}


def test_packages_import_downwards_only(packages):
    assert forbidden(edges(packages, types=True), MAY_IMPORT) == []


def test_no_circle_between_rooms(packages):
    assert circle(edges(packages, types=True)) == ""


@pytest.mark.parametrize(("one", "other"), STRANGERS)
def test_rooms_that_must_not_know_each_other(packages, one, other):
    graph = edges(packages, types=True)
    assert other not in graph[one], f"{graph[one].get(other)} imports {other}"
    assert one not in graph[other], f"{graph[other].get(one)} imports {one}"


def test_the_runtime_can_be_surveyed(packages):
    rooms = {room_of(module) for module in modules_of({"pocketvlm": packages["pocketvlm"]})}
    rooms -= {"pocketvlm", "pocketvlm.__main__"}
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)


def test_what_the_checks_find(tmp_path):
    """A circle through an import within a function, an import upwards for types alone, and one in a
    registry."""
    low, high = tmp_path / "pocketvlm", tmp_path / "pocketvlm_high"
    files = {
        low / "__init__.py": "",
        low / "a.py": "if TYPE_CHECKING:\n    import pocketvlm_high.top\n",
        low / "b" / "__init__.py": "ENGINES = {'c': 'pocketvlm.c:C'}\n",
        low / "b" / "inner.py": "from pocketvlm.b import ENGINES\n",
        low / "c.py": "def f():\n    from pocketvlm.b import inner\n",
        high / "__init__.py": "",
        high / "top.py": "import pocketvlm.a\n",
    }
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    packages = {"pocketvlm": low, "pocketvlm_high": high}
    may_import = {"pocketvlm": (), "pocketvlm_high": ("pocketvlm",)}
    assert forbidden(edges(packages, types=False), may_import) == []
    upwards = forbidden(edges(packages, types=True), may_import)
    assert upwards == ["pocketvlm.a imports pocketvlm_high.top"]
    steps = set(circle(edges(packages, types=False)).split("; "))
    assert steps == {"pocketvlm.b imports pocketvlm.c", "pocketvlm.c imports pocketvlm.b"}


def test_every_package_is_in_the_wheel_with_all_its_files(packages):
    """Hatchling takes the folders that are listed, and of them what git does not ignore."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    build = project["tool"]["hatch"]["build"]
    listed = {ROOT / folder for folder in build["targets"]["wheel"]["packages"]}
    shared = {ROOT / folder / name for folder, name in NAMESPACES.items()}
    assert listed == set(packages.values()) | shared
    assert {folder.parent for folder in listed} == {ROOT / d for d in build["dev-mode-dirs"]}
    assert not [file for folder in shared for file in folder.rglob("__init__.py")]
    assert build["exclude"] == ["runtime/pocketvlm/cli/commit.txt"]  # hatch_build.py adds it
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert not [pattern for pattern in ignored if "*" in pattern and pattern not in FOLDERS]
    for folder in packages.values():
        assert (folder / "py.typed").is_file()


_FAMILIES, _TOWERS, _LAYOUTS, _PRUNING, _ORACLES = (
    "exporter/pocketvlm_export/families/",
    "exporter/pocketvlm_export/towers/",
    "runtime/pocketvlm/layouts/",
    "exporter/pocketvlm_export/pruning/",
    "exporter/pocketvlm_export/verification/oracles/",
)
_DECODER_STAGES = "exporter/pocketvlm_export/decoder_stages/"
# Registries, and the rooms that may call their entries by name: their own, and that of families,
# which say what goes with each of them.
REGISTRIES = {
    "families": (FAMILIES, (_FAMILIES, _TOWERS)),
    "towers": (TOWERS, (_TOWERS, _FAMILIES)),
    "layouts": (LAYOUTS, (_LAYOUTS, _FAMILIES)),
    "pruners": (PRUNERS, (_PRUNING, _ORACLES, _FAMILIES)),
    "decoder stages": (DECODER_STAGES, (_DECODER_STAGES,)),
}
# What else may say a name of which registry, and why.
_PICTURES = "exporter/pocketvlm_export/upstream/pictures.py"
SAID_ELSEWHERE = {
    (_PICTURES, "llava_next"): "a module of transformers",
    (
        "exporter/pocketvlm_export/upstream/pictures.py",
        "llava_onevision",
    ): "a module of transformers",
    (_PICTURES, "gemma3"): "a module of transformers",
    ("exporter/pocketvlm_export/packaging/using.py", "tiles"): "a field of the template",
    ("runtime/pocketvlm/artifact/stages.py", "given"): "of graphs that have a further input",
    ("runtime/pocketvlm/artifact/specs.py", "single"): "of manifests that state no layout",
    ("runtime/pocketvlm/server/answers.py", "tiles"): "a field of answers",
    ("runtime/pocketvlm/server/openapi.py", "tiles"): "a field of answers",
    ("runtime/pocketvlm/server/settings.py", "none"): "a choice of tools, in OpenAI's words",
    ("runtime/pocketvlm/server/running.py", "none"): "no WebSockets, in uvicorn's words",
    ("runtime/pocketvlm/decoders/gguf_header.py", "none"): "a way to scale frequencies",
    ("runtime/pocketvlm/decoders/gguf_header.py", "gemma3"): "an architecture of llama.cpp",
    ("profiles/pocketvlm_measure/evaluation/metrics/vqa_text.py", "none"): "a number in words",
    ("profiles/pocketvlm_measure/profiler/rows.py", "tiles"): "a column",
    ("profiles/pocketvlm_measure/cli/tune_options.py", "none"): "a tower without stages",
}


def said(file: Path) -> set[str]:
    """The texts that a module has as constants, each whole."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {
        node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is str
    }


def called_by_name(
    files: Mapping[str, Path], registries: Mapping[str, tuple[Iterable[str], tuple[str, ...]]]
) -> set[tuple[str, str]]:
    """(file, entry) wherever a file, given by its path here, says the name of an entry and lies in
    none of the rooms that may."""
    rooms_of: dict[str, tuple[str, ...]] = {}  # a family and a layout may have one name
    for names, rooms in registries.values():
        rooms_of |= {name: (*rooms_of.get(name, ()), *rooms) for name in names}
    return {
        (path, name)
        for path, file in files.items()
        for name in said(file).intersection(rooms_of)
        if not path.startswith(rooms_of[name])
    }


def test_entries_of_registries_are_called_by_name_at_home_only(packages):
    """A module that asks for a family, a tower, a layout or a method by name would have to be
    changed for the next one."""
    files = {
        file.relative_to(ROOT).as_posix(): file
        for folder in packages.values()
        for file in folder.rglob("*.py")
    }
    assert called_by_name(files, REGISTRIES) == SAID_ELSEWHERE.keys()


def test_what_that_finds(tmp_path):
    texts = {
        "home/llava.py": "NAME = 'llava'\n",
        "home/fuyu.py": "NAME = 'fuyu'\n",
        "away.py": "def f(name):\n    return name == 'llava' or f'{name} is llava' or 'llava?'\n",
        "innocent.py": "llava = 'LLaVA'  # 'llava'\n",
    }
    files = {}
    for path, text in texts.items():
        files[path] = tmp_path / path
        files[path].parent.mkdir(exist_ok=True)
        files[path].write_text(text)
    registries = {"families": (["llava", "fuyu"], ("home/",))}
    assert called_by_name(files, registries) == {("away.py", "llava")}


MOST_FILES_OF_A_METHOD = 8
# What else would have to be changed for it, had it not become one way to rank tokens among others.
SPREAD = re.compile("fastv", re.IGNORECASE)


def test_a_method_inside_the_decoder_is_named_in_few_files(packages):
    """Two of them are published tables."""
    folders = [*packages.values(), ROOT / "tools"]
    sources = {
        file.relative_to(ROOT).as_posix()
        for folder in folders
        for file in folder.rglob("*")
        if file.suffix in (".py", ".json", ".jinja", ".toml", ".md")
        and not {"__pycache__", "node_modules"} & set(file.parts)
        if SPREAD.search(file.read_text(encoding="utf-8"))
    }
    assert 0 < len(sources) <= MOST_FILES_OF_A_METHOD, sorted(sources)


PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
# A link to a file here, or a file of the source or the tests in backticks.
NAMED_FILE = re.compile(
    r"\]\((?!https?:|#)([^)#]+)|`((?:tests|exporter|runtime|profiles)/[\w./-]+)`"
)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_the_pages_name_exist(page):
    for link, path in NAMED_FILE.findall((ROOT / page).read_text(encoding="utf-8")):
        if "NAME" in path or "MODEL_TYPE" in path:  # a file that the reader is to write
            continue
        named = (ROOT / page).parent / link if link else ROOT / path
        assert named.exists(), link or path


def test_the_readme_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


@pytest.mark.parametrize("page", ["README.md", "docs/families.md"])
def test_every_family_is_on_the_page_with_its_parity_test(page):
    """A link to tests that name the family, where its row says `model_type`."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|(.*)", (ROOT / page).read_text("utf-8"), re.M)
    tests = {
        model_type: re.findall(r"\]\(([^)]*tests/[^)]*\.py)\)", row)
        for names, row in rows
        for model_type in re.findall(r"\w+", names)
    }
    for model_type in FAMILIES:
        texts = [((ROOT / page).parent / file).read_text("utf-8") for file in tests[model_type]]
        name = re.compile(model_type.replace("_", "[-_. ]?"), re.IGNORECASE)  # Qwen2.5-VL too
        assert any(map(name.search, texts)), model_type


_QUOTED = re.compile(r"```python\n(.*?)```", re.DOTALL)
_FILE_OF = re.compile(r"^# tests/.*\n", re.MULTILINE)  # a quote's source, said in it


def test_the_guide_to_families_quotes_the_source(packages):
    """What it shows of InternVL is in the repository, wherever its lines are broken."""

    def plain(text: str) -> str:
        return "".join(text.split()).replace('""', "").replace(",)", ")")

    files = [*packages["pocketvlm_export"].rglob("internvl.py"), *(ROOT / "tests").rglob("*.py")]
    files.append(packages["pocketvlm"] / "layouts" / "tiles.py")
    sources = [plain(file.read_text(encoding="utf-8")) for file in files]
    quotes = _QUOTED.findall((ROOT / "docs" / "add-a-family.md").read_text(encoding="utf-8"))
    assert len(quotes) >= 5
    for quote in quotes:
        for piece in map(plain, _FILE_OF.sub("\n", quote).split("\n\n")):
            assert any(piece in source for source in sources), piece


MAPS = {  # the heads of the tables that show the rooms of a package
    "pocketvlm": "| module of the runtime |",
    "pocketvlm_export": "| module of the exporter |",
    "pocketvlm_measure": "| module of measuring |",
}


@pytest.mark.parametrize("package", MAPS)
def test_the_map_shows_every_room(packages, package):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition(MAPS[package])[2].partition("\n\n")[0]
    listed = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`([\w./]+)`", row[: row.find(" | ")])
    }
    rooms = set()
    for path in packages[package].iterdir():
        if (path / "__init__.py").exists():
            rooms.add(f"{path.name}/")
        elif path.suffix == ".py" and not path.name.startswith("__"):
            rooms.add(path.name)
    assert listed == rooms
