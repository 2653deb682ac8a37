"""The images and the split of a configuration, without the network. For every verb that reads data."""

from typing import Any

import pandas as pd

from skinkd.build.construct import build
from skinkd.data.files import MAX_PIXELS, limit_pixels
from skinkd.data.source import source_of
from skinkd.data.splits import check_shares, make_split, protocol_images
from skinkd.data.table import ImageTable

Config = dict[str, Any]


def load_table(config: Config) -> ImageTable:
    """Return the dataset's table; from here on, no image above ``data.max_pixels`` is decoded."""
    limit_pixels(config["data"].get("max_pixels", MAX_PIXELS))  # stored runs may be older than the setting
    return build(config["data"]["table"], place="data.table")


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
