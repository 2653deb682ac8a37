"""Runs gathered into the rows of a comparison: one configuration, several seeds and folds; and what may be compared."""

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
from skinkd.config.identity import NOT_IDENTITY, holds_added_defaults, identity
from skinkd.config.paths import place_below
from skinkd.errors import UserError

_FIRST = ("backbone.name", "data.name", "protocol", "data.image_size", "data.split_seed")
"""Settings that tell rows apart before any other does; the first three are then said of every row."""
_LONGEST = 24  # characters of a value in a label


@dataclass(frozen=True)
class Row:
    """The runs of one configuration, in order of fold and seed.

    Attributes:
        label: the name that tells the row from the others, with the same settings for every row of a method.
        runs: at least one.
        short: for plots, a name that does so with the fewest settings of this row alone.
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
        """The configuration that the runs share, by dotted name."""
        return _flatten(_shared(self.runs[0].config))


def group_rows(runs: Sequence[Run]) -> tuple[Row, ...]:
    """Gather runs that are the same but for seed and fold; rows in order of label.

    Raises:
        UserError: two runs are the same configuration, seed and fold.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[identity(_shared(run.config))].append(run)
    split: list[list[Run]] = []
    for group in groups.values():
        # a teacher's seed is a setting as any other only where students of one seed differ in it
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
        for one, other in pairwise(ordered):
            if one.place == other.place:
                raise UserError(
                    f"{one.folder} and {other.folder} are the same configuration and seed twice; leave one of them out"
                )
        rows.append(Row("", tuple(ordered), ""))
    named = [Row(label, row.runs, short) for (label, short), row in zip(_labels(rows), rows, strict=True)]
    return tuple(sorted(named, key=lambda row: row.label))


def check_comparable(rows: Sequence[Row], *, across: bool) -> None:
    """Raise UserError for the first two runs whose test sets differ; with ``across``, only inside a row.

    Runs of one row and one fold share classes and test set, and so do all rows, which have the same folds.
    """
    for row in rows:
        first: dict[int, Run] = {}
        for run in row.runs:
            same_fold = first.setdefault(run.place[0], run)
            if what := _difference(same_fold, run):
                raise UserError(
                    f"{same_fold.folder.name} and {run.folder.name} are one configuration but differ in {what}; leave out "
                    "those that began on other data"
                )
            if run.classes != row.classes:
                raise UserError(
                    f"{row.runs[0].folder.name} and {run.folder.name} differ in their classes; leave one out"
                )
    if across:
        return
    for row in rows[1:]:
        reference, other = ({run.place[0]: run for run in reversed(one.runs)} for one in (rows[0], row))
        if set(other) != set(reference):
            _refuse(rows[0].runs[0], row.runs[0], f"their folds ({_folds(reference)}, and {_folds(other)})")
        for fold, run in reference.items():
            if what := _difference(run, other[fold]):
                _refuse(run, other[fold], what)


def _difference(one: Run, other: Run) -> str:
    """In what the test sets of two runs differ; empty if in nothing."""
    if one is other:
        return ""
    if one.classes != other.classes:
        return f"their classes ({', '.join(one.classes)}, and {', '.join(other.classes)})"
    a, b = (run.test.set_index("image_id") for run in (one, other))
    shared = a.index.intersection(b.index)
    if len(shared) < max(len(a), len(b)):
        return f"their test images ({len(a)} and {len(b)}, of which {len(shared)} are the same)"
    for column, words in (("label", "labels"), ("group", "lesions")):
        changed = int((a.loc[shared, column] != b.loc[shared, column]).sum())
        if changed:
            return f"the {words} of {changed} test images"
    return ""


def _refuse(one: Run, other: Run, what: str) -> None:
    raise UserError(
        f"{one.folder.name} and {other.folder.name} cannot be compared because they differ in {what}; leave one of them "
        "out, or give --across-test-sets for a table without tests"
    )


def _folds(runs: dict[int, Run]) -> str:
    return ", ".join("none" if fold < 0 else str(fold) for fold in sorted(runs))


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without seed and fold, its teachers' included: what the runs of a row share.

    A stored teacher has only what differs from its student, so a seed is there for one student and not for another.
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
    """Dotted names and values of what is part of a run's identity; paths count from the folders that may move."""
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
    """The method, and in brackets the fewest settings that tell rows of one method apart; and the same for plots."""
    settings = [
        row.settings | {f"teacher.seed_{n}": seed for n, seed in enumerate(_teacher_seeds(row.runs[0].config))}
        for row in rows
    ]
    by_method: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_method[row.method].append(number)
    chosen: dict[int, list[str]] = {number: [] for number in range(len(rows))}
    for members in by_method.values():
        for name in _telling([settings[number] for number in members]):
            for number in members:
                chosen[number].append(name)
    everywhere = [name for name in _FIRST[:3] if any(name in names for names in chosen.values())]
    words: list[list[str]] = []
    for number in range(len(rows)):
        names = [*everywhere, *(name for name in chosen[number] if name not in everywhere)]
        words.append([_word(name, settings[number].get(name)) for name in names])
    labels, repeats = [], dict[tuple[str, ...], int]()
    for number, row in enumerate(rows):
        others = [words[other] for other in by_method[row.method] if other != number]
        key = (row.method, *words[number])
        repeats[key] = repeats.get(key, 0) + 1  # only where values are alike in their first characters
        suffix = f" #{repeats[key]}" if repeats[key] > 1 else ""
        labels.append((_name(row, words[number]) + suffix, _name(row, _least(words[number], others)) + suffix))
    return labels


def _name(row: Row, words: Sequence[str]) -> str:
    return f"{row.method} ({', '.join(words)})" if words else row.method


def _least(words: Sequence[str], others: Sequence[Sequence[str]]) -> list[str]:
    """Those of a row's words that no other row has all of; of several choices, without the first."""
    kept = list(words)
    for word in words:
        fewer = [one for one in kept if one != word]
        if not any(set(fewer) <= set(other) for other in others):
            kept = fewer
    return kept


def _telling(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Greedily, the settings that tell all of these apart; usual ones first, then the least deep."""
    names = sorted({name for one in settings for name in one if "_target_" not in name})

    def usual(name: str) -> tuple[int, bool, int, str]:
        rank = _FIRST.index(name) if name in _FIRST else len(_FIRST)
        return rank, not name.startswith("method."), name.count("."), name

    chosen: list[str] = []
    parts = 1
    while parts < len(settings):
        counts = {name: len({str([one.get(key) for key in [*chosen, name]]) for one in settings}) for name in names}
        better = [name for name in sorted(names, key=usual) if counts[name] > parts]
        if not better:
            break
        name = better[0] if better[0] in _FIRST else max(better, key=lambda one: counts[one])
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
