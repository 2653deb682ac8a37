"""``python -m skinkd.compare`` on folders of random runs and on two that were trained."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import train_process
from run_factory import MakeRun

from skinkd.analysis.comparison import MAIN_METRICS
from skinkd.analysis.runs import read_runs
from skinkd.compare import main
from skinkd.runs.folder import RunFolder

FILES = {
    "comparison.csv", "tests.csv", "per_class.csv", "calibration.csv", "abstention.csv", "runs.csv",
    "comparison.md", "comparison.tex", "report.html",
}  # fmt: skip


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reports of a test have no figures, which take half of the time of a comparison."""
    monkeypatch.setattr("skinkd.analysis.report.all_figures", lambda _: {})


def state(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.count("error: ") == 1 and "Traceback" not in text
    return text


def test_a_folder_of_runs_leaves_the_report_beside_them_and_the_runs_alone(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: state(path) for path in study.iterdir()}
    main([str(study)])
    shown = capsys.readouterr().out
    assert {path.name for path in (study / "comparison").iterdir()} == FILES
    assert shown.rstrip().endswith(str(study / "comparison" / "report.html"))
    assert "3 rows, 9 runs" in shown and "Difference to supervised" in shown
    assert before == {path: state(path) for path in before}
    again = read_runs([study], output_dir=study)
    assert len(again.runs) == 9 and not again.skipped, "its own output is no run"


def test_several_folders_are_compared_in_none_of_them(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, undrawn: None
) -> None:
    """A sweep's own comparison is not written over by one with others, and their order makes no other place or bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKINKD_OUTPUT_DIR", str(tmp_path / "results"))
    folders = []
    for method in ("supervised", "kd"):
        folders.append(tmp_path / f"of_{method}")
        shutil.copytree(make_run(method), folders[-1] / method)
    digests = []
    for order in (folders, folders[::-1]):
        main([str(folder) for folder in order])
        (out,) = (tmp_path / "results" / "comparisons").iterdir()
        digests.append({name: digest for name, (_, digest) in state(out).items()})
    assert set(digests[0]) == FILES and digests[0] == digests[1]
    assert not any((folder / "comparison").exists() for folder in folders)


def test_named_runs_are_compared_outside_their_folders(
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    undrawn: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKINKD_OUTPUT_DIR", str(tmp_path / "results"))
    one, other = make_run("supervised"), make_run("kd")
    before = state(one.parent)
    main([str(one), str(other), "--metrics", "auroc_macro, brier", "--baseline", "kd"])
    main([str(other), str(one), "--metrics", "auroc_macro,brier", "--baseline", "kd"])
    (out,) = (tmp_path / "results" / "comparisons").iterdir()  # the order makes no other place
    assert {path.name for path in out.iterdir()} == FILES and state(one.parent) == before
    shown = capsys.readouterr().out
    assert "Brier score" in shown and "Difference to kd" in shown and "balanced" not in shown.split("Cost")[0]


def test_what_is_left_out_is_said(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], undrawn: None
) -> None:
    make_run("supervised")
    unfinished = make_run("kd", finished=False)
    main([str(unfinished.parent), "--out", str(tmp_path / "out")])
    assert unfinished.name in capsys.readouterr().out.replace("\n", "")
    assert unfinished.name in (tmp_path / "out" / "report.html").read_text()
    assert unfinished.name in (tmp_path / "out" / "comparison.md").read_text()


def test_mistakes_are_one_sentence_and_leave_nothing(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], undrawn: None
) -> None:
    one, other = make_run("supervised"), make_run("kd", images=90)
    out = tmp_path / "out"
    assert "neither a folder nor a sweep" in error_of(capsys, tmp_path / "absent", "--out", out)
    assert "--across-test-sets" in error_of(capsys, one.parent, "--out", out)
    assert "did you mean 'accuracy'" in error_of(capsys, one, "--metrics", "acuracy", "--out", out)
    assert "--metrics names no metric" in error_of(capsys, one, "--metrics", " ,", "--out", out)
    assert "neither a row nor a method" in error_of(capsys, one, "--baseline", "tsskd", "--out", out)
    assert "is a run folder" in error_of(capsys, one, "--out", other)
    assert "wandb login" in error_of(capsys, one, "--out", out, "--wandb")
    assert not out.exists()
    out.touch()
    assert "--out" in error_of(capsys, one, "--out", out)
    main([str(one.parent), "--across-test-sets", "--out", str(tmp_path / "across")])
    assert "nothing is tested" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_computed(
    place: str, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_run("supervised")
    (tmp_path / "file").touch()
    monkeypatch.setattr("skinkd.analysis.output.compare", lambda *a, **k: pytest.fail("computed first"))
    text = error_of(capsys, one, "--out", tmp_path / place)
    assert "cannot be written" in text and "--out" in text


def test_a_folder_in_which_no_file_can_be_made_is_found_first(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**settings: object) -> None:
        raise PermissionError(13, "Permission denied")

    one = make_run("supervised")
    monkeypatch.setattr("skinkd.analysis.output.TemporaryFile", refuse)  # root may write everywhere
    monkeypatch.setattr("skinkd.analysis.output.compare", lambda *a, **k: pytest.fail("computed first"))
    assert "cannot be written (Permission denied)" in error_of(capsys, one, "--out", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_two_trained_runs_in_a_process_of_its_own(finished: Path, trained: Callable[..., Path], tmp_path: Path) -> None:
    other = trained("method=tf_kd")
    words = [str(finished), str(other), "--out", str(tmp_path / "out")]
    done = train_process.run(words, folder=tmp_path / "job", module="skinkd.compare", timeout=200)
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines()[:-1])) <= 80 and "\x1b" not in done.out + done.err
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("row")
    for label, folder in (("supervised", finished), ("tf_kd", other)):
        metrics = RunFolder(folder).metrics()
        for name in ("accuracy", "balanced_accuracy", "auroc_macro", "ece", "loss"):
            assert table.loc[label, f"{name}_mean"] == pytest.approx(metrics[f"test/{name}"], abs=1e-12)
            for bound in ("low", "high"):  # one run each, drawn with the run's own seed
                expected = metrics[f"test/{name}_{bound}"]
                assert table.loc[label, f"{name}_{bound}"] == pytest.approx(expected, abs=1e-9)
        assert table.loc[label, "parameters"] == metrics["parameters"]
        assert table.loc[label, "macs"] == metrics["macs"]
    tests = pd.read_csv(tmp_path / "out" / "tests.csv")
    assert set(tests["row"]) == {"tf_kd"}
    # not DeLong's: of so few images a class has a single lesion, and its variance is undefined
    assert tests.loc[tests["test"] != "DeLong", "p"].between(0, 1).all()


def test_the_help_names_the_metrics_that_are_shown_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The help is printed without the import of the module that has them."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert ",".join(MAIN_METRICS) in "".join(capsys.readouterr().out.split())
