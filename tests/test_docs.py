"""The documentation site: complete, strict, and of one host."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parent.parent
LOADED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}
ADDRESS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


class Page(HTMLParser):
    """What a browser loads for a page, and the page's headings that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.equations = 0
        self.feed(path.read_text("utf-8"))

    @classmethod
    @cache
    def of(cls, path: Path) -> "Page":
        """A page of the site, read once."""
        return cls(path)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note addresses; a link's is loaded unless it only says where the page is."""
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        self.equations += tag == "math"
        if tag in LOADED and values.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(values.get(LOADED[tag], ""))
        self.loads += [one.split()[0] for one in values.get("srcset", "").split(",") if one.strip()]
        self.loads += addresses(values.get("style", ""))


def addresses(css: str) -> list[str]:
    return [first or second for first, second in ADDRESS.findall(css)]


def elsewhere(address: str) -> bool:
    return bool(re.match(r"(?:[a-z]+:)?//", address))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Built as ``make docs`` builds it; a warning ends the build."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
        assert config.strict
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
        config.plugins.on_shutdown()
    yield folder


def test_every_page_of_the_repository_is_there(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} | {"index", "CONTRIBUTING", "CHANGELOG"}
    assert pages <= {page.stem for page in site.glob("*.html")}


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loads = [(page.name, address) for page in site.rglob("*.html") for address in Page.of(page).loads]
    loads += [(sheet.name, address) for sheet in site.rglob("*.css") for address in addresses(sheet.read_text("utf-8"))]
    assert {name for name, _ in loads} >= {"index.html", "methods.html", "theme.css"}, "the scan sees pages and sheets"
    assert [(name, address) for name, address in loads if elsewhere(address)] == []


def test_the_scan_finds_other_hosts(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<script src="https://a.example/x.js"></script><link rel="stylesheet" href="//a.example/x.css"><a href="https://b">'
        '<img srcset="x.png 1x, https://a.example/2.png 2x"><p style="background: url(\'https://a.example/3.png\')">'
    )
    assert len([one for one in Page(page).loads if elsewhere(one)]) == 4
    assert [one for one in addresses('@import "https://a.example/4.css"; a {b: url(data:x)}') if elsewhere(one)]


@pytest.mark.parametrize("name", ["methods", "data"])
def test_every_equation_is_drawn(site: Path, name: str) -> None:
    source = (ROOT / f"docs/{name}.md").read_text("utf-8")
    fences = re.findall(r"^```(\w*)\n.*?^```$", source, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", source, flags=re.DOTALL | re.MULTILINE)
    marked = len(re.findall(r"\$`[^`]+`\$", prose))
    short = len(re.findall(r"\$[^$\n]+\$", re.sub(r"\$?`[^`]*`\$?", "", prose)))
    assert fences.count("math") + marked + short == Page.of(site / f"{name}.html").equations > 0
    assert r"\mathrm" not in (site / f"{name}.html").read_text("utf-8")


@pytest.mark.parametrize("package", ["losses", "methods", "scoring", "analysis"])
def test_the_reference_has_every_public_function(site: Path, package: str) -> None:
    place = ROOT / "skinkd" / package
    modules = list(place.glob("[!_]*.py"))
    names = {
        f"{'.'.join(module.relative_to(ROOT).with_suffix('').parts)}.{node.name}"
        for module in modules
        for node in ast.parse(module.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert names and names <= Page.of(site / f"reference/{package}.html").ids


def test_the_search_knows_pages_and_docstrings(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    for word, place in (("rectify", "reference/losses.html"), ("grouped", "data.html"), ("bootstrap", "compare.html")):
        assert [one for one in index["docs"] if word in one["text"] and one["location"].startswith(place)]
    assert (site / "search/search_index.js").is_file(), "the search of a page that was opened from disk"
