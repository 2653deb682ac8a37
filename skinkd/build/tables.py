"""The images and the split of a configuration, without the network. For every verb that reads data."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from skinkd.build.construct import build
from skinkd.config.stored_paths import inside
from skinkd.data.files import MAX_PIXELS, limit_pixels
from skinkd.data.source import source_of
from skinkd.data.splits import check_shares, make_split, protocol_images
from skinkd.data.table import ImageTable
from skinkd.errors import UserError

Config = dict[str, Any]

VARIABLE = "SKINKD_DATA_DIR"
"""The environment variable that ``paths.data_dir`` in ``conf/`` reads."""


def load_table(config: Config) -> ImageTable:
    """Return the dataset's table; from here on, no image above ``data.max_pixels`` is decoded.

    Raises:
        UserError: the dataset cannot be read, or its loader returns something else.
    """
    limit_pixels(config["data"].get("max_pixels", MAX_PIXELS))  # stored runs may be older than the setting
    try:
        table = build(config["data"]["table"], place="data.table")
    except FileNotFoundError as error:  # of a loader that reads its files itself
        sentence = f"{config['data']['table']['_target_']} finds no {error.filename}"
        raise UserError(_where_data_lie(sentence, config)) from error
    except UserError as error:
        raise UserError(_where_data_lie(str(error), config)) from error
    if not isinstance(table, ImageTable):
        raise UserError(
            f"{config['data']['table']['_target_']} returns {type(table).__name__}, and a loader returns an ImageTable"
        )
    return table


def _where_data_lie(sentence: str, config: Config) -> str:
    """Return the sentence on data that cannot be read, and how to name their folder if it is absent."""
    root, below = config["data"].get("root"), config["paths"]["data_dir"]
    if not isinstance(root, str) or Path(root).exists() or not Path(root).is_relative_to(below) or VARIABLE in sentence:
        return sentence
    unset = "" if os.environ.get(VARIABLE) else f"{VARIABLE} is not set, and "
    return (
        f"{sentence}; {unset}{below} has no folder {Path(root).relative_to(below)}: name the folder that has it in {VARIABLE} "
        "or paths.data_dir"
    )


def check_stored_table(config: Config) -> None:
    """Raise UserError if a stored configuration would have images drawn in a folder that is not there yet.

    Such a folder may be anywhere; below the folders of ``paths``, which are the command's, it may be made.
    """
    table = config["data"]["table"]
    source = source_of(table)
    if source is None or not source.generated or inside(table["root"], config["paths"]):
        return
    if not Path(str(table["root"])).expanduser().is_dir():
        raise UserError(
            f"data.table.root={table['root']} of the stored configuration is not there, and lies outside paths.output_dir, "
            "where it may not be made; make the folder, or give the command of the run instead"
        )


def load_images(config: Config) -> ImageTable:
    """Return the images that the protocol splits."""
    return protocol_images(load_table(config), config["protocol"])


def split_images(config: Config, table: ImageTable) -> pd.Series:
    """Return the part of each row of :func:`load_images`."""
    data = config["data"]
    return make_split(
        table,
        protocol=config["protocol"],
        fractions=data["fractions"],
        seed=data["split_seed"],
        fold=data["fold"],
        folds=data["folds"],
        source=source_of(data["table"]),
    )


def load_split(config: Config) -> tuple[ImageTable, pd.Series]:
    """Return the images that the protocol splits, and the part of each."""
    data = config["data"]
    check_shares(data["fractions"], fold=data["fold"], folds=data["folds"], protocol=config["protocol"])
    table = load_images(config)
    return table, split_images(config, table)
