"""Names that were made to break a card."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from cards import HTML, made
from huggingface_hub import ModelCard
from hydra import compose, initialize_config_module
from hypothesis import example, given
from hypothesis import strategies as st

from skinkd.card.markdown import count, escaped, table
from skinkd.inference.trained import Trained, open_trained
from skinkd.train import train

HOSTILE = (
    "a|b",
    "two\nlines",
    "| --- |\n| x |",
    "<script>alert(1)</script>",
    "<!-- comment",
    "[link](javascript:alert(1))",
    "![image](https://example.com/x.png)",
    "https://example.com www.example.com me@example.com",
    "`code` **bold** _italic_ ~~gone~~",
    "# title",
    "&lt;b&gt; &#124;",
    "$x^2$ \\(y\\)",
    "---",
    "{{ 7 * 7 }} {% raw %}",
    "'single' \"double\": yes",
    "\u202eevil\u2066 \x00\x1b[31m",
    "back\\slash\\| end\\",
)


def visible(markdown: str) -> str:
    """What a reader sees of Markdown on one line."""
    (inline,) = [token for token in HTML.parse(markdown) if token.type == "inline"]
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}
    return "".join(child.content for child in inline.children or [])


def one_line(name: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", " ", name).split())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_seen_as_it_is(name: str) -> None:
    assert visible(f"x {escaped(name)} y") == f"x {one_line(name)} y"


@given(st.text(alphabet="ab _*`[]()<>|~$#&\\!@:/.-+=w1\n\t\"'{}^", max_size=30))
@example("_a_ b_c __d__")
@example("\\|")
def test_any_name_is_seen_as_it_is_in_a_line_and_in_a_table(name: str) -> None:
    assert visible(f"x {escaped(name)} y").split() == ["x", *one_line(name).split(), "y"]
    rendered = HTML.render(str(table(["Name", "Number"], [[f"x{name}", 1], ["last", 2]], 1)))
    assert rendered.count("<table>") == 1 and rendered.count("<td") == 4
    cell = re.findall(r"<td[^>]*>(.*?)</td>", rendered)[0]
    assert "<" not in cell  # text alone, without a tag


@pytest.fixture(scope="module")
def hostile(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on a user's folder whose class folders have hostile names, under a hostile name of the data."""
    base = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    for name in ("a|b", "<img src=x onerror=alert(1)>", "two\nlines", "[x](javascript:y)"):
        (base / "data" / name).mkdir(parents=True)
        for k in range(20):
            cv2.imwrite(str(base / "data" / name / f"{k}.png"), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    words = [word for word in tiny if not word.startswith("data") and not word.startswith("trainer.max_epochs")]
    words += ["data=folder", f"data.root={base / 'data'}", "data.name='x | y <b>'", "data.image_size=64"]
    words += ["data.near_duplicate_bits=null", "data.num_workers=0", "data.batch_size=16", "trainer.max_epochs=1"]
    words += [f"run_dir={base / 'run'}"]
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        train(compose("train", overrides=words))
    return open_trained(str(base / "run"))


def test_a_users_folder_with_hostile_names(hostile: Trained, tmp_path: Path) -> None:
    found = made(hostile, tmp_path / "card")
    assert found.front["datasets"] == ["x-y-b"] and ModelCard(found.text).data.eval_results
    rendered = HTML.render(found.body)
    assert not re.search(r"<(?:img|b|a|script)\b", rendered) and "<p>|" not in rendered
    for name in hostile.classes:
        assert f"| {escaped(name)} |" in found.body
    assert "no licence is stated".lower() in found.body.lower()
    for row in re.findall(r"<tr>(.*?)</tr>", rendered, re.DOTALL):
        assert "</td>" in row or "</th>" in row


def test_numbers_are_words_that_can_be_read_aloud() -> None:
    assert [count(value) for value in (12, 1234, 3379975, 70522592, 4.1e9)] == [
        *("12", "1.2 thousand", "3.4 million", "70.5 million", "4.1 billion"),
    ]
