"""What people type: ~, commas, quotes and Hydra's own folders; a printed word can be pasted."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from skinkd.config.names import LONGEST, check_names
from skinkd.config.overrides import check_overrides
from skinkd.config.quoting import at_home, hydra_value, word
from skinkd.errors import UserError

PATHS = (
    "/x (1)",
    "/a,b",
    "/a=b",
    "/x[1]",
    "/O'Brien",
    "/no#1",
    "/皮肤",
    "/a{b}",
    "/a&b",
    "/tilde~",
    "/wow!",
    '/quo"te',
    "/ü x",
)


def parsed(text: str) -> object:
    return OverridesParser.create().parse_override(text).value()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), min_size=1))
@example("a'b")
@example("0.")
@example("1e5")
@example("1_0")
@example("007")
@example("true")
@example("NULL")
@example("-inf")
@example("\\'")
@example("ends in \\")
@example("\\\\''\\")
def test_a_quoted_value_is_read_as_it_is_and_survives_the_shell(value: str) -> None:
    if "${" in value:  # a reference, in quotes too
        return
    assert str(parsed(f"data.root={hydra_value(value)}")) == value
    assert shlex.split(word("data.root", value)) == [f"data.root={hydra_value(value)}"]


@pytest.mark.parametrize("path", PATHS)
def test_a_value_that_hydra_cannot_read_comes_back_quoted(path: str) -> None:
    with pytest.raises(UserError) as told:
        check_overrides("data_verbs", ["data=folder", f"data.root={path}"])
    advised = word("data.root", path)
    assert advised in str(told.value) and f"data.root={path}" in str(told.value)
    # what a user pastes into a shell is one word, which gives the path
    pasted = subprocess.run(["sh", "-c", f"printf %s {advised}"], capture_output=True, text=True, check=True).stdout
    assert parsed(pasted) == path


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir"])
def test_folders_that_hydra_users_type_are_refused_with_ours(key: str, tmp_path: Path) -> None:
    for flag in ([], ["-m"]):
        with pytest.raises(UserError, match=f"^{key}=elsewhere has no effect.* run_dir=<folder> .* paths.output_dir="):
            check_overrides("train", [*flag, f"{key}=elsewhere"])


def test_settings_beside_a_stored_configuration_hold_or_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    stored = f"config={tmp_path / 'config.yaml'}"
    check_overrides("train", [stored, "force=true", "run_dir=x", "paths.output_dir=y"])
    for other in ("seed=1", "data.batch_size=8", "method=kd", "+trainer.max_steps=3"):
        with pytest.raises(UserError, match=f"^{other.replace('+', '.')} has no effect beside config="):
            check_overrides("train", [stored, other])
    for verb in ("data_verbs", "evaluate"):
        with pytest.raises(UserError, match=r"is for python -m skinkd\.train"):
            check_overrides(verb, [stored])


def test_home_is_written_out_quoted_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/o'neill x")
    monkeypatch.setenv("SKINKD_OUTPUT_DIR", "~/runs")
    monkeypatch.setenv("SKINKD_DATA_DIR", "/data")
    typed = ["paths.output_dir=~/r", "run_dir='~/r'", 'backbone.weights="~/w.pth"', "+out=~", "--config-dir=~/conf"]
    words = at_home(typed)
    assert words[-1] == "--config-dir=/home/o'neill x/conf"
    assert [parsed(text) for text in words[:-1]] == [f"/home/o'neill x{end}" for end in ("/r", "/r", "/w.pth", "")]
    assert os.environ["SKINKD_OUTPUT_DIR"] == "/home/o'neill x/runs" and os.environ["SKINKD_DATA_DIR"] == "/data"
    # loaders write these out themselves: the names of stored runs have them as typed
    assert at_home(["data.root=~/clinic", "data.root='~/clinic'", "run=~/r"]) == [
        "data.root='~/clinic'",
        "data.root='~/clinic'",
        "run='~/r'",
    ]
    for text in ("seed=0", "-m", "~optim.lr", "data.name=a~b", "method=~x"):
        assert at_home([text]) == [text]


def test_a_name_that_no_disk_takes_is_refused() -> None:
    check_names({"data": {"name": "n" * LONGEST}})
    for name in ("n" * (LONGEST + 1), "é" * (LONGEST // 2 + 1)):
        with pytest.raises(UserError, match=f"has {len(name.encode())} bytes; give at most {LONGEST}"):
            check_names({"data": {"name": name}})
