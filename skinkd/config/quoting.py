"""Words of a command line: how to write a value so that Hydra and the shell read it as it is, and ``~`` in paths."""

import os
import re
import shlex

_PLAIN = re.compile(r"[A-Za-z0-9_./@%+:-]+")
_HOME = re.compile(r"(?P<key>\+{0,2}[\w.@/]+|--config-dir|-cd)=(?P<quote>['\"]?)(?P<path>~(?:/.*)?)(?P=quote)")

EXPANDED_LATER = ("data.root", "data.file", "method.teacher.ckpt", "run")
"""Settings whose ``~`` is expanded where the path is used: the names of stored runs have it as it was typed."""


def hydra_value(value: str) -> str:
    """Return a text as Hydra's grammar takes it for exactly that text: in quotes unless it is plain."""
    return value if _PLAIN.fullmatch(value) and not _is_no_text(value) else quoted(value)


def quoted(value: str) -> str:
    """Return a text in quotes, as Hydra's grammar takes it for exactly that text, also where it looks like a number."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"


def _is_no_text(value: str) -> bool:
    """Return whether Hydra reads a word as something that prints differently: ``0.`` is 0.0, ``true`` is True."""
    try:
        return str(int(value)) != value
    except ValueError:
        pass
    try:
        float(value)
    except ValueError:
        return value.lower() in ("true", "false", "null")
    return True


def word(key: str, value: str) -> str:
    """Return ``key=value`` as Hydra reads it, quoted for a POSIX shell."""
    text = f"{key}={hydra_value(value)}"
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else shlex.quote(text)


def at_home(arguments: list[str]) -> list[str]:
    """Return the command line with ``~`` and ``~/…`` written out, quoted or not, and the folders of the environment too.

    Hydra itself would make a folder called ~.
    """
    for name in ("SKINKD_DATA_DIR", "SKINKD_OUTPUT_DIR"):
        if os.environ.get(name, "").startswith("~"):
            os.environ[name] = os.path.expanduser(os.environ[name])
    return [_at_home(argument) for argument in arguments]


def _at_home(argument: str) -> str:
    found = _HOME.fullmatch(argument)
    if found is None:
        return argument
    key, path = found["key"], found["path"]
    if key.startswith("-"):
        return f"{key}={os.path.expanduser(path)}"
    if key.lstrip("+") in EXPANDED_LATER:
        return f"{key}='{path}'"
    return f"{key}={hydra_value(os.path.expanduser(path))}"
