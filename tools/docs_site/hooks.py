"""Knows how pages that are written for the repository become pages of the site; mkdocs calls it.

In the repository a page links to source files, to examples and to CONTRIBUTING.md by relative
paths. On the site each of these is a page too: a Markdown file as it is, any other text file as a
listing, a folder as the names in it. So every link works in both, and the site needs no address of
the repository. A link whose text is the name of a page's file gets that page's title. Diagrams in
mermaid, which GitHub draws, are pictures here, see `docs_site.diagrams`. Options in inline code
stay on one line, which browsers would break after their hyphens; long names may break after their
underscores and slashes, so that a column of them leaves room for others.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[2]
_DOCS = "docs/"
_FRONT = "README.md"  # of the repository; docs/index.md is that of the site
# Pages of the site that lie beside docs/, which are in its navigation.
_BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md")
# A link to a file of the repository: [text](path) or [text](path#anchor).
_LINK = re.compile(r"(\]\()(?!\w+:|#|<)([^)#\s]+)(#[^)\s]*)?\)")
_NAMED = re.compile(r"\[([\w-]+\.md)\]\(([^)#\s]*?)\1(#[^)\s]*)?\)")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIAGRAMS = "diagrams"  # the folder of their pictures in docs/
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LEXERS = {".py": "python", ".toml": "toml", ".json": "json", ".ipynb": "json", ".mjs": "js"}
_CODE = re.compile(r"(?<=<code>)[^<\n]+(?=</code>)")  # inline: a block ends with a newline
_LONG = 30  # characters
_HIDDEN = "---\nsearch:\n  exclude: true\n---\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of docs/, and what that links to."""
    pending = [_DOCS + file.src_uri for file in files if file.is_documentation_page()]
    for name in _BESIDE:
        files.append(_added(name, config, InclusionLevel.INCLUDED))
        pending.append(name)
    done = set(pending)
    while pending:
        page = pending.pop()
        for target in _targets(page):
            ours = target in done or target.startswith(_DOCS) or target == _FRONT
            if ours or not (_ROOT / target).exists():  # mkdocs says what is missing
                continue
            done.add(target)
            files.append(_added(target, config, InclusionLevel.NOT_IN_NAV))
            if target.endswith(".md"):
                pending.append(target)
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark where words of inline code may break; site.css has the class of those that may not."""
    return _CODE.sub(lambda code: " ".join(map(_breaking, code[0].split(" "))), html)


def _breaking(word: str) -> str:
    """A word of code: one with a hyphen that fits on a telephone's line is kept whole, a longer
    one may break after underscores and slashes."""
    if len(word) > _LONG:
        word = re.sub(r"(?<=[\w.])([_/])(?=\w)", r"\1<wbr>", word)
    elif "-" in word:
        word = f'<span class="whole">{word}</span>'
    return word


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the pages of the site that show files of the repository."""
    if (source := _source(page.file)) is None:
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def titled(match: re.Match[str]) -> str:
        file = _ROOT / _resolved(source, match[2] + match[1])
        title = _TITLE.search(file.read_text(encoding="utf-8")) if file.is_file() else None
        return f"[{title[1]}]({match[2]}{match[1]}{match[3] or ''})" if title else match[0]

    def pointed(match: re.Match[str]) -> str:
        target = _site_uri(_resolved(source, match[2]))
        return f"{match[1]}{posixpath.relpath(target, here or '.')}{match[3] or ''})"

    markdown = DIAGRAM.sub(lambda match: f"![Diagram]({picture_of(match[1])})", markdown)
    return _outside_fences(markdown, lambda text: _LINK.sub(pointed, _NAMED.sub(titled, text)))


def picture_of(diagram: str) -> str:
    """Where the picture of a diagram lies in docs/: it is named after the diagram's text."""
    return f"{DIAGRAMS}/{hashlib.sha256(diagram.encode()).hexdigest()[:12]}.svg"


def _added(path: str, config: MkDocsConfig, inclusion: InclusionLevel) -> File:
    """A file of the repository as a page of the site."""
    uri, file = _site_uri(path), _ROOT / path
    if path.endswith(".md"):
        text = file.read_text(encoding="utf-8")
    elif file.is_dir():
        names = (f"- `{each.name}`" for each in sorted(file.iterdir()) if each.is_file())
        text = "\n".join([f"{_HIDDEN}# {path}", "", *names, ""])
    else:
        lexer = _LEXERS.get(file.suffix, "text")
        listing = file.read_text(encoding="utf-8").replace("~~~~", "~~~ ~")
        text = f"{_HIDDEN}# {path}\n\n~~~~{lexer}\n{listing}\n~~~~\n"
    return File.generated(config, uri, content=text, inclusion=inclusion)


def _source(file: File) -> str | None:
    """The path in the repository of a page; None of a listing, whose links are not ours."""
    if file.generated_by is None:
        return _DOCS + file.src_uri
    return file.src_uri if (_ROOT / file.src_uri).is_file() else None


def _site_uri(path: str) -> str:
    """Where a file of the repository lies on the site."""
    if path == _FRONT:
        return "index.md"
    if path.startswith(_DOCS):
        return path.removeprefix(_DOCS)
    return path if path.endswith(".md") else f"{path}.md"


def _resolved(page: str, link: str) -> str:
    """The path in the repository that a link of a page names; of a folder, its README if any."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    readme = f"{path}/README.md"
    return readme if (_ROOT / readme).is_file() else path


def _targets(page: str) -> list[str]:
    text = _FENCE.sub("", (_ROOT / page).read_text(encoding="utf-8"))
    return [_resolved(page, match[2]) for match in _LINK.finditer(text)]


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])
