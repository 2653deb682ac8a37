"""Writes a network's model card: MODEL_CARD.md for people and for the Hugging Face Hub, and model_card.json for programs.

Mitchell et al. 2019, Model Cards for Model Reporting, is the source of the idea; the sections are ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skinkd.card.facts import card_facts
from skinkd.card.text import card_text
from skinkd.inference.trained import Trained
from skinkd.runs.folder import RunFolder

MARKDOWN = "MODEL_CARD.md"
JSON = "model_card.json"


def write_card(
    trained: Trained,
    folder: Path,
    *,
    paths: Mapping[str, Any] | None = None,
    export: pd.DataFrame | None = None,
    export_notes: Sequence[str] = (),
) -> list[Path]:
    """Write ``MODEL_CARD.md`` and ``model_card.json`` into a folder, and return their paths.

    Both have the same content. It comes from the run folder and from the dataset's ``SOURCE``; nothing is predicted, and no
    image is decoded. What is unknown, such as the scores of a checkpoint outside a run folder, is said to be unknown. The
    same run gives the same bytes.

    Args:
        trained: the network, as :func:`skinkd.inference.trained.open_trained` returns it.
        folder: made if it is absent.
        paths: the folders ``data_dir``, ``output_dir`` and ``cache_dir`` where the dataset's metadata may lie now; None:
            those of the run. The metadata is needed for scores by sex, age, body site and confirmation alone.
        export: the scores before and after export, in the order and under the titles in which the card shows them: a row
            for each measure and a column for each file; None: the card has no such section.
        export_notes: sentences that stand above that table, such as a warning that int8 loses accuracy.

    Raises:
        UserError: a file of the run folder is damaged.
        OSError: the folder cannot be written.
    """
    facts = card_facts(trained, paths=paths, export=export, export_notes=export_notes)
    text = card_text(facts)  # before anything is written
    target = RunFolder(folder)
    return [target.write_text(MARKDOWN, text), target.write_json(JSON, facts)]
