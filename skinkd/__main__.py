"""List the verbs: python -m skinkd."""

import ast
import sys
from importlib.resources import files

from skinkd import __version__

VERBS = {
    "train": "train.py",
    "predict": "predict.py",
    "evaluate": "evaluate.py",
    "export": "export.py",
    "explain": "explain.py",
    "compare": "compare.py",
    "tune": "tune.py",
    "app": "app.py",
    "data": "data/__main__.py",
}
"""Name and file of each verb, in the order in which a user meets them."""


def describe(file: str) -> str:
    """Return the first sentence of a verb's docstring, without importing the verb, which can take seconds."""
    source = files("skinkd").joinpath(file).read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return docstring.splitlines()[0].partition(": python -m")[0]


def main() -> None:
    """Print the verbs, one line each; a word that is no flag ends in an error, since each verb is a module."""
    if words := [word for word in sys.argv[1:] if not word.startswith("-")]:
        module = f"skinkd.{words[0]}" if words[0] in VERBS else "skinkd.<verb>"
        print(
            f"error: each verb is a module; write python -m {module}, not python -m skinkd {words[0]}", file=sys.stderr
        )
        raise SystemExit(2)
    print(f"skinkd {__version__}: experiments in knowledge distillation on skin-lesion images\n")
    for verb, file in VERBS.items():
        print(f"  python -m skinkd.{verb:<9} {describe(file)}")
    print("\nEach verb has --help. Start with: python -m skinkd.train experiment=quickstart")


if __name__ == "__main__":
    main()
