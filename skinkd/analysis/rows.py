"""Groups runs into the rows of a comparison, each a configuration with its seeds and folds, and checks the rows."""

import copy
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from skinkd.analysis.runs import Run
from skinkd.config.identity import (
    ADDED_SETTINGS,
    FORMATS,
    NOT_IDENTITY,
    get_setting,
    holds_added_defaults,
    identity,
)
from skinkd.config.paths import place_below
from skinkd.errors import UserError

_FIRST = ("backbone.name", "data.name", "protocol", "data.image_size", "data.split_seed")
"""Settings to tell rows apart by, before all others. If one of the first three does, every row's label has it."""
_LONGEST = 24  # most characters of a value in a label


@dataclass(frozen=True)
class Row:
    """The runs of a configuration, in order of fold and seed.

    Attributes:
        label: the row's name, with the settings that tell the rows of its method apart.
        runs: at least one run.
        short: a name for plots, with only the settings that tell this row from the other rows.
    """

    label: str
    runs: tuple[Run, ...]
    short: str

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.runs[0].method

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.runs[0].classes

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the runs share, by dotted name."""
        return _flatten(_shared(self.runs[0].config))


def group_rows(runs: Sequence[Run]) -> tuple[Row, ...]:
    """Group runs that differ only in seed and fold; return the rows in order of label.

    Raises:
        UserError: two runs have the same configuration, seed and fold.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[identity(_shared(run.config))].append(run)
    split: list[list[Run]] = []
    for group in groups.values():
        # a teacher's seed tells rows apart only if students with the same seed differ in it
        if len({run.place for run in group}) < len(group):
            by_teacher: dict[str, list[Run]] = defaultdict(list)
            for run in group:
                by_teacher[str(_teacher_seeds(run.config))].append(run)
            split.extend(by_teacher.values())
        else:
            split.append(group)
    rows = []
    for group in split:
        ordered = sorted(group, key=lambda run: (run.place, run.folder.name, str(run.folder)))
        for run, following in pairwise(ordered):
            if run.place == following.place:
                raise UserError(
                    f"{run.folder} and {following.folder} have the same configuration and seed; leave one of them out"
                )
        rows.append(Row("", tuple(ordered), ""))
    named = [Row(label, row.runs, short) for (label, short), row in zip(_labels(rows), rows, strict=True)]
    return tuple(sorted(named, key=lambda row: row.label))


def check_comparable(rows: Sequence[Row], *, across: bool) -> None:
    """Raise UserError for the first two runs whose test sets differ.

    Runs of a row in the same fold must share classes and test set. Without ``across``, all rows must also have the same
    folds, with the same classes and test set in each fold.
    """
    for row in rows:
        first: dict[int, Run] = {}
        for run in row.runs:
            same_fold = first.setdefault(run.place[0], run)
            if difference := _difference(same_fold, run):
                raise UserError(
                    f"{same_fold.folder.name} and {run.folder.name} have the same configuration but differ in {difference}; "
                    "leave out the runs that began with different data"
                )
            if run.classes != row.classes:
                raise UserError(
                    f"{row.runs[0].folder.name} and {run.folder.name} differ in their classes; leave one out"
                )
    if across:
        return
    for row in rows[1:]:
        reference, folds = ({run.place[0]: run for run in reversed(either.runs)} for either in (rows[0], row))
        if set(folds) != set(reference):
            _refuse(rows[0].runs[0], row.runs[0], f"their folds ({_folds(reference)}, and {_folds(folds)})")
        for fold, run in reference.items():
            if difference := _difference(run, folds[fold]):
                _refuse(run, folds[fold], difference)


def mixed_formats(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each row whose runs were trained in different number formats or memory layouts.

    With ``auto``, runs of one row may have been trained in different formats on different machines.
    """
    sentences = []
    for row in rows:
        trained: dict[str, list[str]] = defaultdict(list)
        for run in row.runs:
            chosen = {name: get_setting(run.config, name) for name in FORMATS}
            words = ", ".join(f"{name}={str(value).lower()}" for name, value in chosen.items() if value is not None)
            fold = "" if run.fold is None else f" of fold {run.fold}"
            trained[words].append(f"seed {run.seed}{fold}")
        if len(trained) > 1:
            parts = "; ".join(f"{', '.join(which)} with {words}" for words, which in trained.items())
            sentences.append(f"The runs of {row.label} were trained in different formats: {parts}.")
    return sentences


def _difference(first: Run, second: Run) -> str:
    """Return in words how the test sets of two runs differ; "" if they do not."""
    if first is second:
        return ""
    if first.classes != second.classes:
        return f"their classes ({', '.join(first.classes)}, and {', '.join(second.classes)})"
    a, b = (run.test.set_index("image_id") for run in (first, second))
    shared = a.index.intersection(b.index)
    if len(shared) < max(len(a), len(b)):
        return f"their test images ({len(a)} and {len(b)}, of which {len(shared)} are the same)"
    for column, words in (("label", "labels"), ("group", "lesions")):
        changed = int((a.loc[shared, column] != b.loc[shared, column]).sum())
        if changed:
            return f"the {words} of {changed} test images"
    return ""


def _refuse(first: Run, second: Run, difference: str) -> None:
    raise UserError(
        f"{first.folder.name} and {second.folder.name} cannot be compared because they differ in {difference}; leave one "
        "of them out, or give --across-test-sets for a table without tests"
    )


def _folds(runs: dict[int, Run]) -> str:
    return ", ".join("none" if fold < 0 else str(fold) for fold in sorted(runs))


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration without seed and fold, also of its teachers. The runs of a row share it.

    A stored teacher lists only settings that differ from the student's, so some runs list a teacher's seed and some do not.
    """
    shared = copy.deepcopy(config)
    _forget(shared)
    return shared


def _forget(config: dict[str, Any]) -> None:
    config.pop("seed", None)
    config.get("data", {}).pop("fold", None)
    run = (config.get("method", {}).get("teacher") or {}).get("run")
    if run:
        _forget(run)


def _teacher_seeds(config: dict[str, Any]) -> list[int]:
    seeds, seed = [], config["seed"]
    while run := (config.get("method", {}).get("teacher") or {}).get("run"):
        seed = run.get("seed", seed)
        seeds.append(seed)
        config = run
    return seeds


def _flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run's identity by dotted name, with paths relative to the folders that may move."""
    result: dict[str, Any] = {}

    def walk(node: Any, name: str) -> None:
        if name in NOT_IDENTITY or holds_added_defaults(node, name):
            return
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{name}.{key}" if name else str(key))
            return
        text = node if isinstance(node, str | int | float | bool | None) else json.dumps(node, ensure_ascii=False)
        place = place_below(text, config["paths"])
        result[name] = text if place is None else f"<{place[0]}>{place[1]}"

    walk(config, "")
    return result


def _labels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the label and the short name of each row: the method, and in brackets settings that tell its rows apart."""
    settings = [
        row.settings | {f"teacher.seed_{n}": seed for n, seed in enumerate(_teacher_seeds(row.runs[0].config))}
        for row in rows
    ]
    by_method: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_method[row.method].append(number)
    chosen: dict[int, list[str]] = {number: [] for number in range(len(rows))}
    for members in by_method.values():
        for name in telling_settings([settings[number] for number in members]):
            for number in members:
                chosen[number].append(name)
    everywhere = [name for name in _FIRST[:3] if any(name in names for names in chosen.values())]
    words: list[list[str]] = []
    for number in range(len(rows)):
        names = [*everywhere, *(name for name in chosen[number] if name not in everywhere)]
        words.append([_word(name, settings[number].get(name, ADDED_SETTINGS.get(name))) for name in names])
    labels, repeats = [], dict[tuple[str, ...], int]()
    for number, row in enumerate(rows):
        others = [words[other] for other in by_method[row.method] if other != number]
        key = (row.method, *words[number])
        repeats[key] = repeats.get(key, 0) + 1  # rows that no setting in the labels tells apart get a number
        suffix = f" #{repeats[key]}" if repeats[key] > 1 else ""
        labels.append((_name(row, words[number]) + suffix, _name(row, _least(words[number], others)) + suffix))
    return labels


def _name(row: Row, words: Sequence[str]) -> str:
    return f"{row.method} ({', '.join(words)})" if words else row.method


def _least(words: Sequence[str], others: Sequence[Sequence[str]]) -> list[str]:
    """Return the fewest of a row's words that no other row has together, found greedily from the first word on."""
    kept = list(words)
    for word in words:
        fewer = [kept_word for kept_word in kept if kept_word != word]
        if not any(set(fewer) <= set(other) for other in others):
            kept = fewer
    return kept


def telling_settings(settings: Sequence[dict[str, Any]], *, start: Sequence[str] = ()) -> list[str]:
    """Choose greedily settings that tell all of these apart: usual settings first, then the least nested.

    Args:
        settings: of each row, by dotted name.
        start: names that the result begins with.
    """
    chosen = list(start)
    names = sorted({name for row in settings for name in row if "_target_" not in name})

    def usual(name: str) -> tuple[int, bool, int, str]:
        rank = _FIRST.index(name) if name in _FIRST else len(_FIRST)
        return rank, not name.startswith("method."), name.count("."), name

    parts = len({str([row.get(key) for key in chosen]) for row in settings})
    while parts < len(settings):
        counts = {name: len({str([row.get(key) for key in [*chosen, name]]) for row in settings}) for name in names}
        better = [name for name in sorted(names, key=usual) if counts[name] > parts]
        if not better:
            break
        name = better[0] if better[0] in _FIRST else max(better, key=lambda candidate: counts[candidate])
        chosen.append(name)
        parts = counts[name]
    return chosen


def _word(name: str, value: Any) -> str:
    if name in _FIRST[:3]:
        return str(value)
    text = str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)
    if isinstance(value, float):
        text = f"{value:g}"
    if len(text) > _LONGEST:
        text = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{name.split('.')[-1]}={text}"
