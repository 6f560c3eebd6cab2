"""Methods from other packages: their names are listed unimported, and a broken one is one line that
names its package and breaks nothing else."""

import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pocketvlm import PocketVLMError
from pocketvlm.cli import main
from pocketvlm_export import ExportOptions
from pocketvlm_export.graphs import trace
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import (
    PLUGINS,
    PRUNERS,
    find_pruner,
    make_pruner,
    pruner_names,
    usable_pruners,
)
from pocketvlm_export.pruning.base import Evidence
from pocketvlm_export.verification.oracles import Encoded, find_oracle
from support.packages import write_package

GROUP = "pocketvlm.pruners"
GOOD = """
import numpy as np
from pocketvlm_export.pruning.base import Pruner
from pocketvlm_export.verification.oracles import Ranking

class Brightest(Pruner):
    name, title, keeps = "brightest", "Brightest", "that are brightest"
    reads = frozenset({"features"})
    oracle = staticmethod(lambda encoded, options: Ranking(encoded.features.sum(axis=1)))

    def score(self, evidence):
        return evidence.features.sum(dim=-1)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install packages for a test: (name, lines of entry points, **modules)."""
    number = 0
    before = set(sys.modules)

    def write(name, lines, version="1.0", **modules):
        nonlocal number
        number += 1
        folder = tmp_path / f"site{number}"
        write_package(folder, name, {GROUP: lines}, version, **modules)
        monkeypatch.syspath_prepend(folder)

    yield write
    for module in set(sys.modules) - before:
        if module.startswith("plugin_"):
            del sys.modules[module]


def test_a_method_of_another_package_is_one_of_the_methods(install):
    install("pocketvlm-bright", "brightest = plugin_bright:Brightest", plugin_bright=GOOD)
    assert pruner_names() == [*PRUNERS, "brightest"]
    assert "plugin_bright" not in sys.modules
    features = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    kept = make_pruner("brightest", {}).select(
        Evidence(1, (3, 3), features=torch.from_numpy(features[None])), 4
    )
    encoded = Encoded([], 0, features.astype(float), features.astype(float), (3, 3))
    ranking = find_oracle("brightest")(encoded, {})
    assert kept.indices[0].tolist() == ranking.kept(4).tolist()
    assert find_pruner("brightest") in usable_pruners()
    assert PLUGINS.package("brightest") == ("pocketvlm-bright", "1.0")
    with pytest.raises(PocketVLMError, match=r"'magic' is unknown: choose from .*, brightest$"):
        find_pruner("magic")
    with pytest.raises(PocketVLMError, match="brightest has no option 'x'"):
        make_pruner("brightest", {"x": "1"})
    assert make_pruner("brightest", {}, merge_dropped=True).merges


def test_help_lists_it_and_imports_nothing_of_it(install):
    """The command's help is made when its module is imported: in a process of its own."""
    import os
    import subprocess

    install(
        "pocketvlm-bright", "brightest = plugin_bright:Brightest", plugin_bright="raise OSError"
    )
    command = [sys.executable, "-m", "pocketvlm", "export", "--help"]
    path = os.pathsep.join(filter(None, sys.path))
    shown = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    ).stdout
    assert ", brightest;" in " ".join(shown.split())


CLASS = GOOD.partition("class ")[0] + "class Brightest({}):\n    {}\n"
METHOD = "name, title, keeps = 'brightest', 'B', 'b'; reads = frozenset(); "
SCORE = "score = lambda self, evidence: None; "
ORACLE = "oracle = staticmethod(print); "
BROKEN = {
    "does not import": ("import no_such_module", "ModuleNotFoundError: No module named"),
    "is not Python": ("def (", "SyntaxError: "),
    "ends the program": ("raise SystemExit(3)", "SystemExit: 3"),
    "fails with many lines": ("raise ValueError('a\\nb' * 500)", "ValueError: a"),
    "lacks the class": ("x = 1", "AttributeError: "),
    "is a function": ("def Brightest(): pass", "it is function, not a class"),
    "is another class": ("class Brightest: pass", "it is the class Brightest, not a class derived"),
    "has another name": (
        CLASS.format("Pruner", METHOD.replace("brightest", "darkest") + SCORE + ORACLE),
        "it calls itself 'darkest'",
    ),
    "has no title": (CLASS.format("Pruner", "name = 'brightest'"), "its title is not a string"),
    "has no oracle": (CLASS.format("Pruner", METHOD + SCORE), "it has no oracle"),
    "does nothing": (CLASS.format("Pruner", METHOD + ORACLE), "neither score nor select"),
    "reads what there is not": (
        CLASS.format("Pruner", METHOD + SCORE + ORACLE + "reads = frozenset({'pixels'})"),
        "of which cls_row, received, ",
    ),
    "says nested in words": (
        CLASS.format("Pruner", METHOD + SCORE + ORACLE + "nested = 'no'"),
        "its nested is 'no', neither True nor False",
    ),
    "merges perhaps": (
        CLASS.format("Pruner", METHOD + SCORE + ORACLE + "merges = None"),
        "its merges is None, neither",
    ),
    "prunes once": (
        CLASS.format("Pruner", METHOD + SCORE + ORACLE + "prunes = 1"),
        "its prunes is 1, neither",
    ),
    "accepts a list": (
        CLASS.format("Pruner", METHOD + SCORE + ORACLE + "accepts = ['power']"),
        "its accepts is not a mapping of names to",
    ),
    "accepts a number": (
        CLASS.format("Pruner", METHOD + SCORE + ORACLE + "accepts = {'power': 2.0}"),
        "its accepts is not a mapping of names to",
    ),
    "merges and is nested": (
        CLASS.format("Pruner", METHOD + SCORE + ORACLE + "merges = True"),
        "it merges, and is nested",
    ),
    "merges what a question selects": (
        CLASS.format("Pruner", METHOD + SCORE + ORACLE + "merges, nested = True, False")
        + "    reads = frozenset({'projected', 'text'})\n",
        "it merges and reads the prompt",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_package_is_one_line(install, what):
    source, line = BROKEN[what]
    install("pocketvlm-bright", "brightest = plugin_bright:Brightest", plugin_bright=source)
    with pytest.raises(PocketVLMError) as refusal:
        find_pruner("brightest")
    assert refusal.value.setting == "pruner"
    said = str(refusal.value)
    assert said.startswith("pruner 'brightest' of pocketvlm-bright 1.0 cannot be used (")
    assert line in said
    assert "\n" not in said
    assert len(said) < 500
    assert [method.name for method in usable_pruners()] == list(PRUNERS)
    assert "brightest" in pruner_names()
    assert make_pruner("fastervlm", {}).name == "fastervlm"


FAILING = {  # by what of the method fails, the code in its place
    "__init__": "def __init__(self, options): self.no_such",
    "settle": "def settle(self, vision): {}['x' * 2000]",
    "default_budget": "def default_budget(self, tokens): return tokens / 0",
    "first_layer": "def first_layer(self, score_layer): return 1 / 0",
}


@pytest.mark.parametrize("what", FAILING)
def test_a_method_that_fails_while_an_export_is_planned_is_one_line(install, tiny_checkpoint, what):
    source = GOOD.replace('"features"', '"features", "received"') + f"\n    {FAILING[what]}\n"
    install("pocketvlm-bright", "brightest = plugin_bright:Brightest", plugin_bright=source)
    with pytest.raises(PocketVLMError) as refusal:
        make_plan(open_checkpoint(str(tiny_checkpoint)), ExportOptions("brightest"))
    said = str(refusal.value)
    assert said.startswith("pruner 'brightest' of pocketvlm-bright 1.0 cannot be used (")
    assert "Error: " in said
    assert "\n" not in said
    assert len(said) < 500
    assert isinstance(refusal.value.__cause__, (AttributeError, KeyError, ZeroDivisionError))


@pytest.mark.parametrize("merge_dropped", [False, True])
def test_a_method_that_fails_while_it_selects_is_one_line(install, merge_dropped):
    """Called, or traced: torch's tracer has errors of its own for what fails in it."""
    source = GOOD.replace("sum(dim=-1)", "sum(dim=7)")
    install("pocketvlm-bright", "brightest = plugin_bright:Brightest", plugin_bright=source)
    pruner = make_pruner("brightest", {}, merge_dropped=merge_dropped)
    line = r"'brightest' of pocketvlm-bright 1.0 cannot be used \(IndexError: "
    with pytest.raises(PocketVLMError, match=line):
        pruner.select(Evidence(1, (3, 3), features=torch.ones(1, 9, 4)), 4)
    with pytest.raises(PocketVLMError, match=line) as refusal:
        trace(Selecting(pruner))
    assert isinstance(refusal.value.__cause__, IndexError)


class Selecting:
    """A graph of one selection."""

    kind = "vision_encoder"
    input_names, output_names = ("features",), ("indices", "scores")
    dynamic_axes, output_axes = ({0: "batch"},), {}

    def __init__(self, pruner):
        self.module = SelectingModule(pruner).eval()

    def sample_inputs(self):
        return (torch.ones(2, 9, 4),)


class SelectingModule(torch.nn.Module):
    def __init__(self, pruner):
        super().__init__()
        self.pruner = pruner

    def forward(self, features):
        kept = self.pruner.select(Evidence(features.shape[0], (3, 3), features=features), 4)
        return kept.indices, kept.scores


def test_an_oracle_that_fails_is_one_line(install):
    source = GOOD.replace("encoded.features.sum(axis=1)", "encoded.no_such")
    install("pocketvlm-bright", "brightest = plugin_bright:Brightest", plugin_bright=source)
    features = np.ones((9, 4))
    with pytest.raises(PocketVLMError, match=r"pocketvlm-bright .* cannot be used") as refusal:
        find_oracle("brightest")(Encoded([], 0, features, features, (3, 3)), {})
    assert isinstance(refusal.value.__cause__, AttributeError)


def test_a_broken_package_leaves_other_refusals_as_they_are(install, tiny_checkpoint, tmp_path):
    """The list of methods without [CLS] asks all of them what they read."""
    from dataclasses import replace

    install(
        "pocketvlm-bright", "brightest = plugin_bright:Brightest", plugin_bright="raise OSError"
    )
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    spec = replace(checkpoint.spec, vision=replace(checkpoint.spec.vision, has_cls=False))
    with pytest.raises(PocketVLMError, match="choose from gprune, divprune, ") as refusal:
        make_plan(replace(checkpoint, spec=spec), ExportOptions("fastervlm"))
    assert "brightest" not in str(refusal.value)
    command = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "out"), "--dry-run"]
    result = CliRunner().invoke(main, [*command, "--pruner", "brightest"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: pruner 'brightest' of pocketvlm-bright 1.0 cannot be")
    assert len(result.stderr.splitlines()) == 1


def test_a_name_of_ours_cannot_be_taken(install, tiny_checkpoint):
    install("pocketvlm-evil", "fastervlm = plugin_evil:Brightest", plugin_evil=GOOD)
    assert pruner_names() == list(PRUNERS)
    assert find_pruner("fastervlm").__module__ == "pocketvlm_export.pruning.fastervlm"
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    line = (
        "'fastervlm' is PocketVLM's own, and pocketvlm-evil 1.0 registers it too: give it another"
    )
    with pytest.raises(PocketVLMError, match=line):
        make_plan(checkpoint, ExportOptions("fastervlm"))
    assert make_plan(checkpoint, ExportOptions()).pruner.name in PRUNERS
    assert make_plan(checkpoint, ExportOptions("divprune")).pruner.name == "divprune"
    assert "plugin_evil" not in sys.modules


def test_two_packages_with_one_name(install):
    install("pocketvlm-bright", "brightest = plugin_bright:Brightest", plugin_bright=GOOD)
    install("pocketvlm-also", "brightest = plugin_also:Brightest", plugin_also=GOOD)
    assert pruner_names() == [*PRUNERS, "brightest"]
    line = "'brightest' is registered by pocketvlm-also 1.0 and pocketvlm-bright 1.0: uninstall"
    with pytest.raises(PocketVLMError, match=line):
        find_pruner("brightest")


@pytest.mark.parametrize(
    "name", ["Brightest", "a b", "../x", "\x1b[31mred", "none\u202e", "a,b", "-x", "x" * 41, "é"]
)
def test_names_that_could_be_taken_for_something_else_are_passed_over(install, name):
    install("pocketvlm-bright", f"{name} = plugin_bright:Brightest", plugin_bright=GOOD)
    assert pruner_names() == list(PRUNERS)


def test_metadata_without_a_name(install):
    """A folder that was copied by hand: the module is what it can be called by."""
    install("plain", "brightest = plugin_bright:Brightest", version="", plugin_bright="1 / 0")
    with pytest.raises(PocketVLMError, match=r"of plugin_bright cannot be used \(ZeroDivision"):
        find_pruner("brightest")
