"""Reading YAML that somebody else may have written, such as the config.yaml of a run folder."""

from pathlib import Path
from typing import Any

import yaml

from skinkd.config.targets import MOST_NODES
from skinkd.errors import UserError

MOST_BYTES = 10_000_000
_DEEPEST = 100  # mappings and lists in each other


def stored_yaml(file: Path) -> str:
    """Return the text of a YAML file that is safe to load: few values, also with its anchors written out.

    A stored configuration is resolved. So it refers to no other value, and to nothing of the environment, with ``${…}``.

    Raises:
        UserError: the file is no YAML, or too large, has too many values, or refers to others.
        OSError: the file cannot be read.
    """
    return _checked(file)[0]


def read_stored(file: Path) -> Any:
    """Return what such a file holds, as plain values.

    Raises:
        UserError: as :func:`stored_yaml`.
        OSError: the file cannot be read.
    """
    _, loader, root = _checked(file)
    try:
        return None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:
        raise not_yaml(file, error) from None


def _checked(file: Path) -> tuple[str, yaml.SafeLoader, yaml.Node | None]:
    """Return the text, and the loader that has parsed it with the root of its values; both are checked."""
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file} has more than {MOST_BYTES} bytes; no configuration of ours has, so it is refused")
    try:
        text = file.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise not_yaml(file, error) from None
    waiting, count = [(root, 0)] if root else [], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > MOST_NODES or depth > _DEEPEST:
            raise UserError(
                f"{file} has more than {MOST_NODES} values, or more than {_DEEPEST} in each other; no configuration of ours "
                "has, so it is refused"
            )
        if isinstance(node, yaml.ScalarNode) and "${" in node.value:
            raise UserError(
                f"{file} refers to another value with {node.value[:80]}, and a stored configuration has none; write the value"
            )
        if isinstance(node, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            waiting += [(child, depth + 1) for pair in node.value for child in pair]
    return text, loader, root


def not_yaml(file: Path, error: Exception) -> UserError:
    """The sentence on a file that a reader of YAML refuses."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"{file} cannot be read as YAML ({reason}); give the config.yaml of a run folder")
