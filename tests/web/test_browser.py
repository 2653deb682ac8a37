"""The page in a real browser, with a trained network behind it."""

import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chromium import Browser, Page, find_chromium
from hostile_files import HOSTILE
from served import Served, served

from skinkd.web.examples import draw_examples

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; apt install chromium")

ANSWERED = "!document.querySelector('#answer').hidden && !document.querySelector('#summary.waiting')"
REFUSED = "document.querySelector('#problem').innerText"


@pytest.fixture(scope="module")
def server(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The verb on a finished run, whose few validation images are enough for sets at 0.5 alone.

    Temporary files, if there were any, would lie in the server's own folder.
    """
    folder = tmp_path_factory.mktemp("app")
    run = shutil.copytree(finished, tmp_path_factory.mktemp("run") / "run")
    command = [sys.executable, "-m", "skinkd.app", f"run={run}", "port=0", "set_level=0.5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        with served(command, folder) as server:
            yield server
            assert server.interrupt() == 0
            assert "Traceback" not in server.output
    assert list(folder.rglob("*")) == [], "nothing is left behind"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server: Served) -> Iterator[Page]:
    page = open_page(browser, server)
    yield page
    assert re.findall(r"undefined|NaN|null|\[object|[{}]", page.text("body")) == []
    requested = {event["request"]["url"] for event in page.events("Network.requestWillBeSent")}
    assert requested
    assert [url for url in requested if not url.startswith((f"{server.address}/", f"blob:{server.address}/"))] == []
    assert [event["entry"]["text"] for event in page.events("Log.entryAdded") if "violates" in str(event)] == []
    page.close()


def open_page(browser: Browser, server: Served, **size: int | bool) -> Page:
    page = browser.page(**size)  # type: ignore[arg-type]
    page.go(f"{server.address}/", "document.querySelectorAll('#examples button').length == 7")
    return page


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Drawn lesions as files."""
    folder = tmp_path_factory.mktemp("images")
    for name, jpeg in draw_examples().items():
        (folder / f"{name}.jpg").write_bytes(jpeg)
    return {file.stem: file for file in folder.iterdir()}


# ------------------------------------------------------------- the ways to an answer


@contextmanager
def answered(page: Page) -> Iterator[None]:
    """After what is done inside, wait until its answer is shown."""
    asked = "performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/predict')).length"
    before = page.evaluate(asked)
    yield
    page.wait(f"{asked} > {before} && {ANSWERED}")


def shown(page: Page) -> dict[str, float]:
    """The probabilities on the page, in percent, by class."""
    rows = page.evaluate(
        "[...document.querySelectorAll('#classes tr')].map(r => ['th', 'td'].map(c => r.querySelector(c).firstChild.data))"
    )
    return {name: float(text.replace("<", "").replace(">", "").removesuffix("%").strip()) for name, text in rows}


def test_an_image_is_chosen_by_a_click(page: Page, images: dict[str, Path]) -> None:
    with answered(page):
        page.choose("label[for=file]", images["mel"])
    probabilities = shown(page)
    assert len(probabilities) == 7
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
    assert 98 < sum(probabilities.values()) < 102
    assert page.text("#summary").startswith(f"Most probable: {next(iter(probabilities))}")
    assert page.evaluate("document.querySelector('#picture').naturalWidth") > 0
    marked = page.evaluate("[...document.querySelectorAll('tr.in-set th')].map(e => e.firstChild.data)")
    assert marked == [name for name in probabilities if name in page.text("#summary").partition("\n")[2]]
    assert "for 50\u00a0% of the images of each class" in page.text("#set-note")
    assert "Test part of the embedded dataset of skinkd: 23 images" in page.text("#card")


def test_an_image_is_dropped_anywhere(page: Page, images: dict[str, Path]) -> None:
    with answered(page):
        page.choose("label[for=file]", images["mel"])
    chosen = shown(page)
    with answered(page):
        page.drop("h1", [images["vasc"]])
    assert shown(page) != chosen
    with answered(page):
        page.drop("#drop", [images["mel"]])
    assert shown(page) == chosen


def test_of_several_files_the_first_is_taken(page: Page, images: dict[str, Path]) -> None:
    with answered(page):
        page.drop("#drop", [images["mel"], images["nv"]])
    assert "Only the first of 2 files was taken." in page.text("#summary")


def test_an_example_is_answered_as_its_file_is(page: Page, images: dict[str, Path]) -> None:
    with answered(page):
        page.click("#examples li:nth-child(5) button")
    example = shown(page)
    assert page.evaluate("document.querySelector('#examples [aria-pressed=true]').innerText").strip() == "mel"
    with answered(page):
        page.drop("#drop", [images["mel"]])
    assert not page.evaluate("document.querySelector('#examples [aria-pressed=true]')")
    assert shown(page) == example


def test_the_keyboard_reaches_everything(page: Page, images: dict[str, Path]) -> None:
    page.call("Page.setInterceptFileChooserDialog", enabled=True)
    page.press("Tab", code=9)
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("getComputedStyle(document.querySelector('label[for=file]')).outlineStyle") == "solid"
    page.press("Enter", code=13, text="\r")
    opened = page.wait_for_event("Page.fileChooserOpened")
    with answered(page):
        page.call("DOM.setFileInputFiles", files=[str(images["df"])], backendNodeId=opened["backendNodeId"])
    for _ in range(5):
        page.press("Tab", code=9)
    assert page.evaluate("document.activeElement.innerText").strip() == "mel"
    with answered(page):
        page.press("Enter", code=13, text="\r")
    assert page.evaluate("document.activeElement.matches('[aria-pressed=true]')")
    for _ in range(3):
        page.press("Tab", code=9)
    assert page.evaluate("document.activeElement.id") == "show-map"
    page.press(" ", code=32, text=" ")
    assert page.evaluate("getComputedStyle(document.querySelector('#map')).visibility") == "hidden"
    page.press(" ", code=32, text=" ")
    page.press("Tab", code=9)
    assert page.evaluate("document.activeElement.id") == "opacity"
    before = float(page.evaluate("getComputedStyle(document.querySelector('#map')).opacity"))
    page.press("ArrowRight", code=39)
    assert float(page.evaluate("getComputedStyle(document.querySelector('#map')).opacity")) == pytest.approx(
        before + 0.05
    )


def test_the_explanation_is_switched_off_and_on(page: Page) -> None:
    with answered(page):
        page.click("#examples li:nth-child(5) button")
    assert page.evaluate("document.querySelector('#map').naturalWidth") == 512
    states = []
    for _ in range(2):
        page.click("#show-map")
        states.append(page.evaluate("getComputedStyle(document.querySelector('#map')).visibility"))
    assert states == ["hidden", "visible"]


# ------------------------------------------------------------- hostile files


def test_a_hostile_file_is_refused_with_a_sentence(page: Page, images: dict[str, Path], tmp_path: Path) -> None:
    for name, (make, sentence) in HOSTILE.items():
        (tmp_path / name).write_bytes(make())
        page.drop("#drop", [tmp_path / name])
        page.wait(REFUSED)
        assert page.text("#problem").startswith(sentence), name
        assert "\n" not in page.text("#problem").strip()
        assert page.evaluate("document.querySelector('#answer').hidden")
        with answered(page):
            page.drop("#drop", [images["mel"]])
        assert page.text("#problem") == ""


def test_a_name_with_dots_is_never_sent(page: Page, images: dict[str, Path]) -> None:
    """The page sends the bytes alone, so the name of a file cannot become a path."""
    data = list(images["mel"].read_bytes())
    with answered(page):
        page.evaluate(
            f"(() => {{ const files = new DataTransfer(); files.items.add(new File([new Uint8Array({json.dumps(data)})], "
            "'../../../etc/passwd.jpg', {type: 'image/jpeg'})); const input = document.querySelector('#file'); "
            "input.files = files.files; input.dispatchEvent(new Event('change')); })()"
        )
    sent = [
        event["request"] for event in page.events("Network.requestWillBeSent") if event["request"]["method"] == "POST"
    ]
    assert len(sent) == 1
    assert "passwd" not in json.dumps(sent)


# ------------------------------------------------------------- several at once, and no server


def test_two_pages_at_once_are_both_answered(browser: Browser, server: Served, images: dict[str, Path]) -> None:
    pages = {name: open_page(browser, server) for name in ("mel", "vasc")}
    alone = {}
    for name, page in pages.items():
        with answered(page):
            page.drop("#drop", [images[name]])
        alone[name] = shown(page)
    with answered(pages["mel"]), answered(pages["vasc"]):
        for name, page in pages.items():
            page.drop("#drop", [images[name]])
    assert {name: shown(page) for name, page in pages.items()} == alone
    assert alone["mel"] != alone["vasc"]
    for page in pages.values():
        page.close()


def test_the_newest_image_wins(page: Page, images: dict[str, Path]) -> None:
    with answered(page):
        page.click("#examples li:nth-child(7) button")
    last = shown(page)
    for number in (1, 2, 3, 7):
        page.evaluate(f"document.querySelector('#examples li:nth-child({number}) button').click()")
    page.wait(ANSWERED)
    page.evaluate("new Promise(done => setTimeout(done, 400))")  # the worker answers one image after the other
    assert shown(page) == last
    assert page.evaluate("document.querySelector('#examples [aria-pressed=true]').innerText").strip() == "vasc"


def test_a_server_that_has_gone_is_told(page: Page) -> None:
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.click("#examples li:nth-child(5) button")
    page.wait(REFUSED)
    assert page.text("#problem").startswith("The server does not answer.")


# ------------------------------------------------------------- nothing foreign


def test_the_policy_stops_scripts_and_other_hosts(browser: Browser, server: Served) -> None:
    page = open_page(browser, server)
    stopped = page.evaluate(
        """(async () => {
          const stopped = [];
          document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "http://127.0.0.1:9/x.png";
          document.body.append(image);
          document.body.setAttribute("style", "color: red");
          await fetch("http://127.0.0.1:9/").catch(() => {});
          await new Promise((done) => setTimeout(done, 200));
          return [stopped.sort(), window.ran ?? null];
        })()"""
    )
    assert stopped == [["connect-src", "img-src", "script-src-elem", "style-src-attr"], None]
    page.close()


# ------------------------------------------------------------- for everybody


CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const paint = (layers) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of layers) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const low = [];
  let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, noscript")) continue;
    const grounds = [];
    for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
    const ground = paint(["Canvas", ...grounds]), ink = paint(["Canvas", ...grounds, getComputedStyle(element).color]);
    const [a, b] = [luminance(ground), luminance(ink)].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push([walk.currentNode.data.trim(), (a + 0.05) / (b + 0.05)]);
  }
  return [seen, low];
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read(browser: Browser, server: Served, tmp_path: Path, dark: bool) -> None:
    page = open_page(browser, server, dark=dark)
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    page.drop("#drop", [tmp_path / "page.jpg"])
    page.wait(REFUSED)
    problem = page.text("#problem")
    assert problem in str(page.evaluate(CONTRAST.replace("< 4.5", "< 99")))
    assert page.evaluate(CONTRAST)[1] == []
    with answered(page):
        page.click("#examples li:nth-child(5) button")
    seen, low = page.evaluate(CONTRAST)
    assert seen > 50
    assert low == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark
    page.close()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_the_width(browser: Browser, server: Served, width: int) -> None:
    page = open_page(browser, server, width=width, height=800)
    with answered(page):
        page.click("#examples li:nth-child(5) button")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility())"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
    )
    assert outside == []
    if width < 500:  # a finger needs 44 pixels
        sizes = page.evaluate(
            "[...document.querySelectorAll('label, #examples button')]"
            ".map(e => [e.innerText, e.getBoundingClientRect().height])"
        )
        assert sizes and [size for size in sizes if size[1] < 44] == []
    page.close()


def test_assistive_programs_are_told_everything(page: Page) -> None:
    with answered(page):
        page.click("#examples li:nth-child(5) button")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in nodes
        if not node["ignored"] and "role" in node
    ]
    controls = [(role, name) for role, name in found if role in ("button", "switch", "slider", "image", "checkbox")]
    assert len(controls) >= 7 + 1 + 1 + 1 + 2
    assert [role for role, name in controls if not name] == []
    assert ("button", "drawn lesion of class mel") in found
    assert ("switch", "Show the explanation") in found
    assert ("slider", "Opacity of the explanation") in found
    assert "status" in [role for role, _ in found]
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
