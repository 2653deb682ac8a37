"""Where networks look, compared: against plain loops, and what is left out."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from skinkd.analysis.comparison import Comparison, compare
from skinkd.analysis.explanations import SCORES
from skinkd.analysis.figures import as_svg, draw_explanations
from skinkd.analysis.report import latex, write_outputs
from skinkd.analysis.rows import group_rows
from skinkd.analysis.runs import read_runs
from skinkd.analysis.tables import all_tables
from skinkd.errors import UserError

LESIONS, IMAGES = 30, 50
MAPS = ("gradcam", "lime")


def explain(folder: Path, *, shift: float, seed: int, **settings: Any) -> pd.DataFrame:
    """Write an explanations folder whose scores are random numbers, higher by ``shift``; return its table."""
    rng = np.random.default_rng([seed, 7])
    lesion = np.arange(IMAGES) % LESIONS
    ability = np.random.default_rng(1).normal(size=LESIONS)[lesion]
    rows = []
    for name in (*MAPS, "centre"):
        for crop in ("standard", "off-centre"):
            values = 0.5 + 0.05 * ability + rng.normal(0, 0.03, IMAGES) + (shift if crop == "standard" else 9)
            for k in range(IMAGES):
                rows.append(
                    {
                        "image_id": f"i{k}", "group": f"lesion{lesion[k]}", "output": "final", "crop": crop,
                        "kind": "null" if name == "centre" else "method", "map": name,
                        **dict.fromkeys(SCORES, values[k]),
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    (folder / "explanations").mkdir()
    table.to_csv(folder / "explanations" / "scores.csv", index=False)
    stored = {"run": str(folder), "out": None, "images": IMAGES, "seed": 0, **settings}
    (folder / "explanations" / "config.yaml").write_text(yaml.safe_dump(stored))
    (folder / "explanations" / "scores.json").write_text(json.dumps({}))
    return table


def compared(study: Path) -> Comparison:
    return compare(group_rows(read_runs([study], output_dir=study).runs))


def explain_all(study: Path) -> dict[str, list[pd.DataFrame]]:
    """Explain three runs of each method: the networks of kd look at the lesion more, those of swskd as the baseline's."""
    found: dict[str, list[pd.DataFrame]] = {}
    runs = read_runs([study], output_dir=study).runs
    for number, run in enumerate(runs):
        shift = 0.05 if run.method == "kd" else 0.0
        found.setdefault(run.method, []).append(explain(run.folder, shift=shift, seed=number))
    return found


@pytest.fixture
def few(stored_study: Path, tmp_path: Path) -> Path:
    """Four runs that are explained, two of them of kd, where the test may change them."""
    for run in stored_study.iterdir():
        if "-seed0-" in run.name or (run.name.startswith("kd-") and "-seed1-" in run.name):
            shutil.copytree(run, tmp_path / "outputs" / run.name)
    explain_all(tmp_path / "outputs")
    return tmp_path / "outputs"


Explained = tuple[dict[str, list[pd.DataFrame]], Comparison]


@pytest.fixture(scope="module")
def explained(stored_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Explained:
    """The tables of explained runs, and their comparison; for reading only."""
    study = shutil.copytree(stored_study, tmp_path_factory.mktemp("explained") / "outputs")
    return explain_all(study), compared(study)


def test_means_spreads_and_differences_are_those_of_loops(explained: Explained) -> None:
    tables, comparison = explained
    lines = comparison.explanations
    assert len(lines) == len(MAPS) * len(SCORES) * 3
    values = {
        method: [t[(t["map"] == "lime") & (t["crop"] == "standard")].set_index("image_id")["auc"] for t in found]
        for method, found in tables.items()
    }
    rng = np.random.default_rng(3)
    for method, runs in values.items():
        line = lines[(lines["row"] == method) & (lines["map"] == "lime") & (lines["score"] == "auc")].iloc[0]
        means = [run.mean() for run in runs]
        assert line["mean"] == pytest.approx(np.mean(means)) and line["sd"] == pytest.approx(np.std(means, ddof=1))
        if method == "supervised":
            assert pd.isna(line["difference"])
            continue
        pairs = sum(runs) / 3 - sum(values["supervised"]) / 3
        assert line["baseline"] == "supervised" and line["difference"] == pytest.approx(pairs.mean())
        of_lesion = [[pairs[f"i{k}"] for k in range(IMAGES) if k % LESIONS == j] for j in range(LESIONS)]
        drawn = [np.mean([v for j in rng.integers(LESIONS, size=LESIONS) for v in of_lesion[j]]) for _ in range(3000)]
        np.testing.assert_allclose(
            [line["difference_low"], line["difference_high"]], np.quantile(drawn, [0.025, 0.975]), atol=0.004
        )


def test_a_planted_difference_is_significant_and_none_is_not(explained: Explained) -> None:
    _, comparison = explained
    lines, least = comparison.explanations.set_index(["row", "map", "score"]), 2 / (comparison.protocol.replicates + 1)
    for name in MAPS:
        for score in SCORES:
            kd, swskd = lines.loc[("kd", name, score)], lines.loc[("swskd", name, score)]
            assert kd["difference_low"] > 0.03 and kd["p"] == pytest.approx(least)
            assert kd["p_holm"] == pytest.approx(2 * least)  # two rows are tested
            assert abs(swskd["difference"]) < 0.02 and swskd["p_holm"] >= swskd["p"] > kd["p"]


def test_the_report_has_a_table_a_figure_and_a_file(explained: Explained, tmp_path: Path) -> None:
    _, comparison = explained
    (table,) = [table for table in all_tables(comparison) if table.name == "explanations"]
    assert len(table.rows) == len(comparison.explanations)
    assert "gradcam: energy on the lesion" in {row[0].text for row in table.rows}
    assert "explanations.csv" in write_outputs(comparison, [], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Where they look" in page
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    (figure,) = [figure for figure in figures if 'id="explanations-' in figure]
    assert "energy on the lesion" in figure


def test_maps_that_do_not_depend_on_what_was_learned_are_marked_wherever_they_appear(few: Path) -> None:
    verdicts = {f"final/{name}/depends": name != "lime" for name in MAPS}
    one, _ = few.glob("kd-*/explanations/scores.json")
    one.write_text(json.dumps(verdicts))
    comparison = compared(few)
    marked = comparison.explanations[~comparison.explanations["depends"].astype(bool)]
    assert set(marked["row"]) == {"kd"} and set(marked["map"]) == {"lime"} and len(marked) == len(SCORES)
    (table,) = [table for table in all_tables(comparison) if table.name == "explanations"]
    assert {row[0].text.partition(":")[0] for row in table.rows if row[1].text == "kd †"} == {"lime"}
    assert "do not depend on what was learned" in table.more
    drawn = as_svg(draw_explanations(comparison), "explanations")  # in the tables the mark stands beside the row
    assert "lime †" in drawn and "gradcam †" not in drawn
    assert r"kd \dag{}" in latex(comparison)


def test_a_row_that_is_not_explained_is_named_and_left_out(few: Path) -> None:
    one, _ = few.glob("kd-*/explanations/scores.json")
    one.unlink()
    comparison = compared(few)
    assert set(comparison.explanations["row"]) == {"supervised", "swskd"}
    assert "Not every run is explained, so where it looks is not compared: kd." in comparison.notes


def test_explanations_with_other_settings_are_not_compared(few: Path) -> None:
    file = next(iter(few.glob("*/explanations/config.yaml")))
    file.write_text(file.read_text().replace(f"images: {IMAGES}", "images: 7"))
    comparison = compared(few)
    assert comparison.explanations.empty
    assert any("different settings" in note for note in comparison.notes)


def test_damaged_scores_are_one_sentence(few: Path) -> None:
    next(iter(few.glob("*/explanations/scores.csv"))).write_text("image_id\n1\n")
    with pytest.raises(UserError, match="cannot be read as scores of explanations"):
        compared(few)


def test_a_damaged_verdict_is_one_sentence(few: Path) -> None:
    next(iter(few.glob("*/explanations/scores.json"))).write_text("[")
    with pytest.raises(UserError, match=r"scores\.json cannot be read"):
        compared(few)
