"""What MkDocs needs to show this repository's pages as a site: the pages of the root, and equations as MathML.

The pages are written for a repository browser. There ``$`…`$``, ``$…$`` and a fence named ``math`` are equations, and a link
from a page of the root names ``docs/``.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from math_core import LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
FONT = "STIXTwoMath-Regular.ttf"

_to_mathml = LatexToMathML()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read equations as a repository browser does."""
    config.markdown_extensions.append(Equations())  # type: ignore[arg-type]
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [{"name": "math", "class": "math", "format": _fence}]
    }
    return config


def on_files(files_: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and the font of the equations."""
    root = Path(config.config_file_path).parent
    for name in ROOT_PAGES:
        files_.append(File.generated(config, name, content=(root / name).read_text("utf-8")))
    font = (files("ziamath") / "fonts" / FONT).read_bytes()
    files_.append(File.generated(config, f"theme/{FONT}", content=font))
    return files_


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """On the site the pages of the root are beside those of ``docs/``."""
    if page.file.src_uri in ROOT_PAGES:
        return markdown.replace("](docs/", "](").replace("[docs/", "[")
    return re.sub(rf"\]\(\.\./({'|'.join(ROOT_PAGES)})", r"](\1", markdown)


def _fence(source: str, *_: Any, **__: Any) -> str:
    return f'<div class="math">{_mathml(source, display=True)}</div>'


class Equations(Extension):
    """``$`…`$`` and ``$…$`` inside a line, and ``:func:`name``` in docstrings."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """The patterns with backticks come before code (190), ``$…$`` after it, so that ``$HOME`` in code stays code."""
        md.inlinePatterns.register(_Equation(r"\$`([^`]+)`\$", md), "equation", 195)
        md.inlinePatterns.register(_Role(r":(?:func|class|mod|data):`([^`]+)`", md), "role", 195)
        short = r"(?<![\w$])\$(?![\s$`])([^$`\n]+?)(?<!\s)\$(?!\w)"
        md.inlinePatterns.register(_Equation(short, md), "short-equation", 185)


class _Equation(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:  # noqa: N802
        assert self.md
        return self.md.htmlStash.store(_mathml(m[1], display=False)), m.start(0), m.end(0)


class _Role(InlineProcessor):
    """A name with its whole path is a link where the reference has that name."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[ElementTree.Element, int, int]:  # noqa: N802
        link = ElementTree.Element("autoref", {"identifier": m[1], "optional": ""})
        ElementTree.SubElement(link, "code").text = m[1].removeprefix("~").rpartition(".")[2]
        return link, m.start(0), m.end(0)


def _mathml(latex: str, *, display: bool) -> str:
    return _to_mathml.convert_with_local_state(latex.strip(), displaystyle=display)
