"""Names that become folders, on the command lines that write there."""

import sys
from pathlib import Path
from typing import Any

import pytest

from skinkd.config.names import FOLDER_NAMES, check_names
from skinkd.data.__main__ import main as data_main
from skinkd.errors import UserError

BAD = ("..", ".", "", "../x", "a/b", "/etc", "a\\b", "a\nb", "a\0b")


def setting(name: str, value: Any) -> dict[str, Any]:
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_a_name_stays_in_its_folder(name: str) -> None:
    for bad in BAD:
        with pytest.raises(UserError, match=f"^{name}="):
            check_names(setting(name, bad))
    for good in ("ham10000", "a..b", "...", "Größe 2", "x=1,y=2", 7, None):
        check_names(setting(name, good))


@pytest.mark.parametrize("name", ["../../x", ".."])
@pytest.mark.parametrize("verb", ["describe", "split", "augment"])
def test_the_data_verbs_write_nothing_elsewhere(
    verb: str, name: str, tiny: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    out = tmp_path / "deep" / "outputs"
    words = [word for word in tiny if word.startswith(("data", "paths"))]
    monkeypatch.setattr(sys, "argv", ["data", verb, *words, f"data.name={name}", f"paths.output_dir={out}"])
    with pytest.raises(SystemExit) as ended:
        data_main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: data.name=") and said.count("\n") == 1
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("word", ["data.name=..", "data.name=../../x"])
def test_evaluate_leaves_the_run_alone(
    word: str, finished: Path, tiny: list[str], monkeypatch: Any, capsys: Any
) -> None:
    from skinkd.config import cli
    from skinkd.evaluate import evaluate

    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    words = [one for one in tiny if one.startswith(("data", "paths"))]
    monkeypatch.setattr(sys, "argv", ["evaluate", f"run={finished}", *words, word])
    with pytest.raises(SystemExit) as ended:
        cli.main(evaluate, "evaluate")
    assert ended.value.code == 2 and "data.name" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
