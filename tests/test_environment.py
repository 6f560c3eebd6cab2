"""No environment variable turns a check off: those that are read are in a list, and `python -O`,
which ``PYTHONOPTIMIZE`` asks for, removes nothing that matters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("exporter", "runtime", "profiles", "plugins")
# Where the environment is read, and what for. None of it decides what is accepted or run.
READ = {
    # The address of npm's registry; whatever comes from there must have the SHA-512 that is locked.
    "runtime/pocketvlm/web/libraries.py": {"NPM_CONFIG_REGISTRY"},
    # Set for a moment, so that children import nothing from the current folder.
    "runtime/pocketvlm/files/spawning.py": {"_SAFE_PATH"},
    # Set unless they are: telemetry off.
    "runtime/pocketvlm/upstream.py": {"name", "ORT_DISABLE_TELEMETRY"},
    # A cluster that is running already.
    "profiles/pocketvlm_measure/evaluation/engines/ray.py": {"RAY_ADDRESS"},
    # The key that clients of the server must show, in place of --api-key.
    "runtime/pocketvlm/cli/serve.py": {"KEY_VARIABLE"},
}
# What gives the environment's variables, whatever it is called on.
_ENVIRONMENTS = ("environ", "environb", "getenv", "getenvb", "expandvars")


def sources() -> Iterator[tuple[str, ast.AST]]:
    """Each module with its tree."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield (
                file.relative_to(ROOT).as_posix(),
                ast.parse(file.read_text(encoding="utf-8")),
            )


def variables(tree: ast.AST) -> set[str]:
    """What a module asks the environment for: the texts, or the expressions that stand for them;
    ``*`` where it takes all of it."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("envvar", "auto_envvar_prefix"):
            names.add(_named(node.value))
        called = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
        if called not in _ENVIRONMENTS:
            continue
        parent = parents[node]
        if isinstance(parent, ast.Attribute):  # environ.get and its like
            parent = parents[parent]
        if isinstance(parent, ast.Call) and parent.args:
            names.add(_named(parent.args[0]))
        elif isinstance(parent, ast.Subscript):
            names.add(_named(parent.slice))
        elif isinstance(parent, ast.Compare):
            names.add(_named(parent.left))
        else:
            names.add("*")
    return names


def _named(node: ast.AST) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)


def test_every_variable_that_is_read_is_in_the_list():
    assert {file: names for file, tree in sources() if (names := variables(tree))} == READ


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("import os\nif os.environ.get('TRUST'): pass", {"TRUST"}),
        ("import os\nif os.getenv('TRUST'): pass", {"TRUST"}),
        ("from os import environ\nif 'TRUST' in environ: pass", {"TRUST"}),
        ("import os\nos.environ['TRUST']", {"TRUST"}),
        ("import os\nall_of_them = dict(os.environ)", {"os.environ"}),
        ("import os\nsettings = os.environ", {"*"}),
        ("click.option('--trust', envvar='TRUST')", {"TRUST"}),
        ("import os\nos.path.expandvars('$TRUST')", {"$TRUST"}),
    ],
)
def test_a_variable_is_seen_however_it_is_read(source, read):
    assert variables(ast.parse(source)) == read


def test_the_page_names_every_variable():
    page = (ROOT / "docs" / "reading-checkpoints.md").read_text(encoding="utf-8")
    constants = {"_SAFE_PATH": "PYTHONSAFEPATH", "KEY_VARIABLE": "POCKETVLM_API_KEY", "name": ""}
    names = {constants.get(name, name) for names in READ.values() for name in names}
    assert [name for name in sorted(names) if name not in page] == []


def test_asserts_check_nothing_of_a_stranger():
    """They tell a type checker what is so; ``python -O`` leaves them out."""
    narrowing = re.compile(r"^(isinstance\(.*\)|.* is not None)$", re.DOTALL)
    checking = [
        f"{file}:{node.lineno}"
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and not narrowing.match(ast.unparse(node.test))
    ]
    assert checking == []
