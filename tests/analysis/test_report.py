"""What is written: the same bytes for the same runs, every digit where it counts, and any name in every format."""

import dataclasses
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from run_factory import CLASSES, MakeRun, config_in, image_rows, maker

from skinkd.analysis.comparison import Comparison, compare
from skinkd.analysis.formats import amount, bounds, difference, duration, p_value, spread
from skinkd.analysis.report import html, latex, markdown_tables, print_comparison, write_outputs
from skinkd.analysis.rows import Row, group_rows
from skinkd.analysis.runs import Skipped, read_runs
from skinkd.analysis.tables import all_tables
from skinkd.analysis.wandb_report import check_wandb
from skinkd.errors import UserError

AWKWARD = ("a_b 50%", "R&D <i>", "naïve λ|x", "$cost$ {#1} ~^\\")


LONG = "a_method_whose_name_is_longer_than_most_terminals_have_room_for"


def compared(folder: Path) -> Comparison:
    return compare(group_rows(read_runs([folder], output_dir=folder).runs))


@pytest.fixture(scope="module")
def comparison(stored_study: Path) -> Comparison:
    return compared(stored_study)


@pytest.fixture(scope="module")
def written(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files of ``comparison``."""
    out = tmp_path_factory.mktemp("written")
    assert sorted(write_outputs(comparison, [], out)) == sorted(path.name for path in out.iterdir())
    return out


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Names with every character that one of the formats takes for itself."""
    make_run = maker(config_in(tmp_path_factory.mktemp("awkward")))
    for seed in (0, 1):
        make_run("supervised", seed=seed, classes=AWKWARD)
        folder = make_run("50% & <b>_kd|$ #1", seed=seed, classes=AWKWARD, skill=2.5)
    return compared(folder.parent)


@pytest.fixture(scope="module")
def awkward_page(awkward: Comparison) -> str:
    return html(awkward, [Skipped(Path("left <out> & gone"), "not finished")])


@pytest.fixture(scope="module")
def lengthy(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    make_run = maker(config_in(tmp_path_factory.mktemp("lengthy")))
    make_run("supervised")
    make_run(f"{LONG}_one")
    folder = make_run(f"{LONG}_two")
    return compared(folder.parent)


class Page(HTMLParser):
    """Ids, links, addresses from which something would be loaded, text, and whether every element is closed."""

    VOID = ("meta", "link", "br", "img", "input", "path", "use", "rect", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "data", "srcset"):
                (self.anchors if (value or "").startswith("#") else self.loads).append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("which", ["page", "awkward_page"])
def test_the_page_is_whole_small_and_loads_nothing(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)
    page = Page(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids)), "an id twice: plots would take each other's clips and markers"
    assert {anchor[1:] for anchor in page.anchors} <= set(page.ids)
    assert page.loads == ["data:,"]
    assert not re.search(r"url\((?!#)|@import|<script[^>]+src", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert len(text.encode()) < 5_000_000
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert used <= set(re.findall(r"(--[\w-]+):", text)), "a colour that the page does not define"
    for name in ("intervals", "differences", "curves", "reliability"):
        assert f'id="{name}-' in text


def test_any_name_survives_in_html(awkward_page: str) -> None:
    text = awkward_page
    words = "".join(Page(text).texts)
    for name in (*AWKWARD, "50% & <b>_kd|$ #1", "left <out> & gone"):
        assert name in words
    assert "<i>" not in text and "<b>" not in text and "<out>" not in text


def test_any_name_survives_in_markdown(awkward: Comparison) -> None:
    for table in all_tables(awkward):
        lines = markdown_tables(awkward)[table.name].split("\n\n")[0].splitlines()
        assert len(lines) == len(table.rows) + 2
        for line in lines:
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) == len(table.header) + 2, line
    cell = markdown_tables(awkward)["per_class"]
    assert r"R&amp;D &lt;i>" in cell and r"naïve λ\|x" in cell and r"a\_b 50%" in cell


def test_any_name_survives_in_latex(awkward: Comparison) -> None:
    text = latex(awkward)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for name in (
        r"a\_b 50\%",
        r"R\&D $<$i$>$",
        r"naïve λ\textbar{}x",
        r"\$cost\$ \{\#1\} \textasciitilde{}\textasciicircum{}",
    ):
        assert name in body
    depth = 0
    for character in re.sub(r"\\[{}\\]", "", body):
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    bare = re.sub(r"\\[%#_&$]", "", body)
    assert "%" not in bare and "#" not in bare and "_" not in bare
    assert bare.count("$") % 2 == 0
    for table in re.findall(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}(.*?)\\end", bare, flags=re.DOTALL):
        for line in table[1].splitlines():
            if " & " in line:
                assert line.count("&") == len(table[0]) - 1, line


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(awkward: Comparison, tmp_path: Path) -> None:
    tables = latex(awkward).replace("λ", "l")  # not in LaTeX's own fonts
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,longtable}\\begin{document}\n"
        f"{tables}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_same_runs_in_any_order_give_the_same_bytes(stored_study: Path, written: Path, tmp_path: Path) -> None:
    found = read_runs(sorted(stored_study.iterdir(), reverse=True), output_dir=stored_study)
    write_outputs(compare(group_rows(found.runs)), found.skipped, tmp_path)
    one, other = ({path.name: path.read_bytes() for path in out.iterdir()} for out in (written, tmp_path))
    assert one == other
    assert b"\r" not in b"".join(one.values())


def test_test_parts_of_one_class_leave_a_report_without_what_is_undefined(make_run: MakeRun, tmp_path: Path) -> None:
    rows = image_rows(CLASSES, images=60, fold=None).assign(label="mel")
    for method in ("supervised", "kd"):
        folder = make_run(method, rows=rows)
    comparison = compare(group_rows(read_runs([folder.parent], output_dir=folder).runs))
    assert "auroc_macro" not in set(comparison.tests.query("test == 'paired bootstrap'")["metric"])
    names = write_outputs(comparison, [], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    assert 'id="differences-' in (tmp_path / "out" / "report.html").read_text()


def test_runs_with_neither_exports_nor_explanations_have_the_report_without_them(
    comparison: Comparison, written: Path, page: str
) -> None:
    assert comparison.deployed.empty and "exported" not in (written / "comparison.md").read_text("utf-8") + page
    assert not [name for name in pd.read_csv(written / "comparison.csv") if name.endswith("int8")]
    assert comparison.explanations.empty and not any("looks" in note for note in comparison.notes)
    assert "explanations" not in {table.name for table in all_tables(comparison)}
    assert "Where they look" not in page and "explanations-" not in page and "deployed-" not in page
    assert not (written / "explanations.csv").exists()


def test_what_cannot_be_drawn_leaves_no_half_of_the_files(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> str:
        raise IndexError("no line")

    monkeypatch.setattr("skinkd.analysis.report.html", fail)
    with pytest.raises(IndexError):
        write_outputs(comparison, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_csv_has_every_digit(comparison: Comparison, written: Path) -> None:
    wide = pd.read_csv(written / "comparison.csv", float_precision="round_trip").set_index("row")
    for _, one in comparison.scores.iterrows():
        for part in ("mean", "sd", "low", "high"):
            assert wide.loc[one["row"], f"{one['metric']}_{part}"] == one[part]
    tests = pd.read_csv(written / "tests.csv", float_precision="round_trip")
    assert tests["p"].tolist() == comparison.tests["p"].tolist()
    for name in ("per_class", "calibration", "abstention", "runs"):
        assert len(pd.read_csv(written / f"{name}.csv")) == len(getattr(comparison, name))


def test_every_format_has_the_same_rounded_numbers(comparison: Comparison, written: Path, page: str) -> None:
    words = "".join(Page(page).texts)
    tables, text = ((written / f"comparison.{kind}").read_text("utf-8") for kind in ("tex", "md"))
    for table in all_tables(comparison):
        for cell in (cell for row in table.rows for cell in row):
            assert cell.text in words and cell.note in words
            if cell.value is not None:
                assert cell.text in text
                if table.name != "runs":
                    assert cell.text.replace("±", r"$\pm$").replace("−", "$-$").replace("<", "$<$") in tables


def test_bold_is_the_best_and_beyond_chance(make_run: MakeRun) -> None:
    def bold_of(folder: Path) -> set[tuple[str, str]]:
        comparison = compare(group_rows(read_runs([folder], output_dir=folder).runs))
        table = all_tables(comparison)[0]
        return {
            (row[0].text, word) for row in table.rows for word, cell in zip(table.header, row, strict=True) if cell.bold
        }

    size = {"images": 400, "evaluation__bootstrap_replicates": 200}
    make_run("supervised", skill=1.0, noise=1, **size)
    folder = make_run("kd", skill=1.0, noise=2, **size)
    assert bold_of(folder.parent) == set(), "equally good: nothing stands out"
    make_run("swskd", skill=3.0, noise=3, **size)
    assert bold_of(folder.parent) >= {("swskd", "accuracy"), ("swskd", "AUROC (macro)")}
    assert {label for label, _ in bold_of(folder.parent)} == {"swskd"}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("which", ["comparison", "awkward", "lengthy"])
def test_the_terminal_fits(which: str, width: int, request: pytest.FixtureRequest) -> None:
    shown = request.getfixturevalue(which)
    stream = io.StringIO()
    print_comparison(shown, [], out=Path("out"), console=Console(file=stream, width=width, highlight=False))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text and str(Path("out") / "report.html") in text
    for cell in (
        cell for table in all_tables(shown)[:2] for row in table.rows for cell in row if cell.value is not None
    ):
        assert cell.text in text, "a number is cut"


def test_a_terminal_without_unicode_shows_the_numbers_too(comparison: Comparison) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_comparison(comparison, [], out=Path("out"), console=Console(file=stream, width=80, highlight=False))
    stream.flush()
    assert b" +/- " in raw.getvalue()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (spread(0.12345, float("nan")), "0.123 ± -"),
        (spread(float("nan"), float("nan")), "-"),
        (difference(-0.0214), "−0.021"),
        (difference(0.5), "+0.500"),
        (bounds(-0.01, 0.2), "−0.010 to 0.200"),
        (p_value(0.00099), "< 0.001"),
        (p_value(0.001), "0.001"),
        (p_value(float("nan")), "-"),
        (amount(0.0), "0"),
        (amount(999.0), "999"),
        (amount(11_176_512), "11.2 M"),
        (amount(999_700), "1.00 M"),
        (amount(300_000_000), "300 M"),
        (amount(1.8e9), "1.80 G"),
        (duration(59.4), "59 s"),
        (duration(120), "2 min"),
        (duration(7_170), "2 h 00 min"),
        (duration(3_600 * 26 + 60), "26 h 01 min"),
    ],
)
def test_rounding(shown: str, expected: str) -> None:
    assert shown == expected


def test_names_that_differ_at_their_end_differ_in_plots(lengthy: Comparison) -> None:
    from skinkd.analysis.figures import draw_intervals

    shown = [label.get_text() for label in draw_intervals(lengthy).axes[0].get_yticklabels()]
    assert len(set(shown)) == 3 and max(map(len, shown)) <= 36


@pytest.mark.parametrize("heights", [[0.99, 0.98, 1.0, 0.01], [0.5] * 6, [0.2, 0.8], [0.0, 0.0, 0.0]])
def test_names_beside_lines_stay_apart_and_inside(heights: list[float]) -> None:
    from skinkd.analysis.panels import _apart

    axes = Figure().add_subplot()
    placed = _apart(axes, heights, gap=0.1)
    order = sorted(range(len(heights)), key=lambda one: heights[one])
    assert [placed[one] for one in order] == sorted(placed)
    assert all(b - a > 0.099 for a, b in pairwise(sorted(placed)))
    assert min(placed) > 0.049 and max(placed) < 0.951
    if heights == [0.2, 0.8]:
        assert placed == heights  # no one moves who is not in the way


def test_a_time_axis_has_whole_units(comparison: Comparison) -> None:
    from skinkd.analysis.figures import draw_cost

    cost = comparison.cost.assign(seconds=[100.0 * (number + 3) for number in range(len(comparison.cost))])
    figure = draw_cost(dataclasses.replace(comparison, cost=cost))
    assert figure.axes[-1].get_xlabel() == "training time, min"
    assert max(line.get_xdata()[0] for line in figure.axes[-1].lines) == pytest.approx(cost["seconds"].max() / 60)


def test_many_rows_have_markers_of_their_own(comparison: Comparison) -> None:
    from skinkd.analysis.panels import looks_of

    rows = (
        *comparison.rows,
        *(Row(f"more {number}", comparison.rows[1].runs, f"more {number}") for number in range(12)),
    )
    looks = [looks_of(dataclasses.replace(comparison, rows=rows), row.label) for row in rows]
    assert len(set(looks)) == len(rows)


def test_wandb_without_an_account_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="wandb login"):
        check_wandb()
