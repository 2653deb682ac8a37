"""A model card that was written to a folder, read for a test."""

import json
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

from skinkd.card.write import JSON, MARKDOWN, write_card
from skinkd.inference.trained import Trained

HTML = MarkdownIt("commonmark").enable("table")


class Card:
    """The two files of a card, read."""

    def __init__(self, folder: Path) -> None:
        self.text = (folder / MARKDOWN).read_text(encoding="utf-8")
        self.facts: dict[str, Any] = json.loads((folder / JSON).read_text(encoding="utf-8"))
        _, front, self.body = self.text.split("---\n", 2)
        self.front: dict[str, Any] = yaml.safe_load(front)


def made(trained: Trained, folder: Path, **arguments: Any) -> Card:
    if trained.config is not None and "paths" not in arguments:
        # the drawn images of the tests lie outside the folder of runs; a card reads no others
        root = trained.config["data"]["table"].get("root", "")
        arguments["paths"] = trained.config["paths"] | {"cache_dir": root}
    paths = write_card(trained, folder, **arguments)
    assert [path.name for path in paths] == [MARKDOWN, JSON] and all(path.is_file() for path in paths)
    assert sorted(path.name for path in folder.iterdir()) == sorted([MARKDOWN, JSON])
    return Card(folder)
