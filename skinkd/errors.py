"""Mistakes that a user can fix: a verb prints one sentence and exits with code 2."""

import difflib
from collections.abc import Iterable
from numbers import Real


class UserError(Exception):
    """One sentence: what is wrong, where, the value, and how to fix it.

    The verbs print the sentence alone, without a traceback, and exit with code 2.
    """

    def __init__(self, sentence: str) -> None:
        # the error of a DataLoader worker arrives with a traceback in front of the sentence
        super().__init__(sentence.rsplit("UserError: ", 1)[-1].strip())


def nearest(value: str, choices: Iterable[str]) -> str:
    """Return the end of a sentence about a wrong name: ``"; did you mean 'x' or 'y'? valid: …"``, nearest first."""
    names = sorted({str(choice) for choice in choices})
    close = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ";"
    return f"{hint} valid: {', '.join(names)}"


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``; else raise UserError, which names the nearest choices."""
    names = list(choices)
    if value not in names:
        raise UserError(f"{name}={value} is not a valid value{nearest(str(value), names)}")
    return str(value)


def check_range(name: str, value: float, low: float = float("-inf"), high: float = float("inf")) -> None:
    """Raise UserError unless ``low <= value <= high``."""
    if not (isinstance(value, Real) and low <= value <= high):
        bounds = f"of at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise UserError(f"{name}={value} is out of range; it must be a number {bounds}")


def check_whole(name: str, value: object, low: int) -> None:
    """Raise UserError unless ``value`` is a whole number of at least ``low``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise UserError(f"{name}={value} is out of range; it must be a whole number of at least {low}")


def check_positive(name: str, value: float) -> float:
    """Return ``value`` if it is above 0; raise UserError if not."""
    if not (isinstance(value, Real) and value > 0):
        raise UserError(f"{name}={value} is out of range; it must be a number above 0")
    return value
