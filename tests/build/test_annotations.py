"""The kinds of YAML's values, against the annotations of the arguments that take them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from skinkd.build.annotations import check_arguments, fits
from skinkd.errors import UserError


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -3], [1.0, True, "1", None, [1]]),
        (float, [0.5, 3], ["0,5", False, None, {}]),
        (bool, [True, False], [0, 1, "yes"]),
        (str, ["", "a"], [1, None, ["a"], {"a": None}]),
        (str | Path, ["a"], [{"data.root": None}, 1]),
        (int | None, [1, None], ["null", 1.5]),
        (Sequence[int], [[], [1, 2]], [1, ["a"], [1, None], "12", {"a": 1}]),
        (tuple[float, ...], [[0.1], [1, 2]], [0.1, ["x"]]),
        (tuple[int, str], [[1, "a"]], [1]),
        (dict[str, float], [{}, {"ce": 1}], [1.0, {"ce": "small"}, [1.0]]),
        (Mapping[str, Sequence[int]], [{"a": [1]}], [{"a": 1}]),
        (Any, [None, 1, "a", {}], []),
        (Callable[[int], int], [None, 1, "a"], []),
        (Sequence[float], [[{"_target_": "mine.later.Number"}]], []),
    ],
)
def test_a_value_is_of_the_kind_of_its_annotation_or_not(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not fits(value, annotation)] == []
    assert [value for value in bad if fits(value, annotation)] == []


class First:
    """Hands nothing on."""

    def __init__(self, *, weights: dict[str, float], **_: Any) -> None: ...


class Second(First):
    """Hands what it does not name on to the first, and takes another kind of one argument."""

    def __init__(self, *, width: int, absent: "NoSuchName" = None, **others: Any) -> None:  # type: ignore[name-defined]  # noqa: F821
        super().__init__(**others)


class Third(First):
    """Does not hand anything on."""

    def __init__(self, *, width: int, weights: float) -> None: ...


def test_arguments_that_are_handed_on_are_checked_where_they_arrive() -> None:
    check_arguments(
        {"_target_": "x", "width": 1.5, "other": []}, Second, name="method"
    )  # its annotations cannot be read
    with pytest.raises(
        UserError, match=r"^method\.weights=0\.1 is of the wrong kind: .*Second takes weights: dict\[str, float\]"
    ):
        check_arguments({"weights": 0.1}, Second, name="method")
    check_arguments({"width": 2, "weights": 0.1}, Third, name="method")
    with pytest.raises(
        UserError, match=r"^backbone\.width=\[2\] is of the wrong kind: .*Third takes width: int; correct"
    ):
        check_arguments({"width": [2]}, Third, name="backbone")
