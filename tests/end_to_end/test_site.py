"""The site of docs/ is built without a warning, has every page, and asks no other host for
anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What a browser fetches by itself when it opens a page.
FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?([^\"' >]+)")


def test_every_page_is_in_the_navigation():
    nav = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"CONTRIBUTING.md", "CHANGELOG.md"} == set(nav)
    assert len(nav) == len(set(nav))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("mkdocs", "material"):
        pytest.importorskip(module, reason="the extra [docs] is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_ask_no_other_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        fetched = FETCHED.findall(page.read_text("utf-8"))
        assert fetched
        assert not [link for link in fetched if re.match(r"(https?:)?//", link)], page


def test_options_in_inline_code_stay_on_one_line(site):
    """Browsers break after hyphens: `--` would end a line. Blocks are as they were."""
    css = (site / "site.css").read_text("utf-8")
    assert ".md-typeset code .whole { white-space: nowrap; }" in css
    page = (site / "troubleshooting.html").read_text("utf-8")
    assert '<code><span class="whole">--provider</span> cpu</code>' in page
    inline = [code for code in re.findall(r"<code>([^\n]*?)</code>", page) if "<a " not in code]
    assert len(inline) > 100
    loose = [re.sub(r'<span class="whole">[^<]*</span>', "", code) for code in inline]
    assert not [code for code in loose if re.search(r"(?<!\S)--[a-z]", code)]
    security = (site / "security.html").read_text("utf-8")
    assert "<code>test_names_<wbr>that_<wbr>are_" in security.replace("test_<wbr>", "test_")
    blocks = re.findall(r"<pre>.*?</pre>", page, re.DOTALL)
    assert blocks
    assert not [block for block in blocks if "whole" in block or "<wbr>" in block]


def test_every_diagram_has_its_picture(site):
    from docs_site.diagrams import diagrams, picture_of

    pictures = {picture_of(diagram) for diagram in diagrams()}
    drawn = {f"diagrams/{path.name}" for path in (ROOT / "docs" / "diagrams").glob("*.svg")}
    assert pictures == drawn, "run: make diagrams"
    page = (site / "architecture.html").read_text("utf-8")
    assert all(f'src="{picture}"' in page for picture in pictures)
