"""All words of the page are in one file, and each of them is used."""

import re
from html.parser import HTMLParser

import pytest

from skinkd.web.server import PAGE, STATUS, read_texts

TEXTS = read_texts()
SCRIPT = (PAGE / "page.js").read_text(encoding="utf-8")
HTML = (PAGE / "page.html").read_text(encoding="utf-8")


def test_the_script_says_what_the_file_has() -> None:
    counted = {
        f"{number}_{noun}" for noun in re.findall(r'count\([^"]*"(\w+)"\)', SCRIPT) for number in ("one", "many")
    }
    assert counted
    assert set(TEXTS["script"]) <= set(re.findall(r'"(\w+)"', SCRIPT)) | counted, "each is used"
    assert set(re.findall(r'say\("(\w+)"', SCRIPT)) | counted <= set(TEXTS["script"])


@pytest.mark.parametrize("name", TEXTS["script"])
def test_every_place_of_a_text_is_filled(name: str) -> None:
    for place in re.findall(r"\{(\w+)\}", TEXTS["script"][name]):
        assert re.search(rf"\b{place}\b", SCRIPT) or place in ("size", "name"), place


def test_the_page_has_no_words_of_its_own() -> None:
    found: list[str] = []
    words = HTMLParser()
    words.handle_data = found.append  # type: ignore[method-assign]
    words.feed(re.sub(r"\{\{.*?\}\}", "", HTML))
    assert [text for text in found if re.search(r"\w", text)] == ["skinkd: "]
    used = set(re.findall(r"texts\.(\w+)", HTML)) | set(re.findall(r"texts\.page\.(\w+)", SCRIPT))
    assert used == set(TEXTS["page"])


def test_every_failure_has_a_sentence() -> None:
    assert set(STATUS) <= set(TEXTS["refused"])
    assert all(text.endswith(".") for text in TEXTS["refused"].values())
