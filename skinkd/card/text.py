"""Lays out the facts of a model card as Markdown with Hugging Face's front matter.

Names come from users and from files of others. Every text that the template shows is escaped, unless this module made it.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from skinkd.card.checklists import ANSWERS
from skinkd.card.markdown import count, escaped, interval, one_line, score, table
from skinkd.card.tables import all_rows

_LICENCES = {
    "CC0": "cc0-1.0",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
}
"""Licences of datasets -> the Hub's names of them (huggingface.co/docs/hub/repositories-licenses)."""

_HUB_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "f1_macro": "f1",
    "auroc_macro": "roc_auc",
    "average_precision_macro": "average_precision",
}


def card_text(facts: Mapping[str, Any]) -> str:
    """Return the text of MODEL_CARD.md."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=escaped, keep_trailing_newline=True
    )
    environment.globals |= {"table": table, "score": score, "interval": interval, "count": count}
    template = files("skinkd.card").joinpath("card.md.jinja").read_text(encoding="utf-8")
    body = environment.from_string(template).render(**facts, **all_rows(facts), answers=ANSWERS)
    front = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{front}---\n\n{body}"


def front_matter(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of the Hub's model cards, with ``model-index`` if the test part was scored.

    The specification is modelcard.md of github.com/huggingface/hub-docs.
    """
    data, model, results = facts["data"], facts["model"], facts["results"]
    front: dict[str, Any] = _licence(data)
    front["pipeline_tag"] = "image-classification"
    tags = ["image-classification", "skinkd", model["method"], model["network"]]
    front["tags"] = list(dict.fromkeys(_slug(tag) for tag in tags if tag))
    if data:
        front["datasets"] = [_slug(data["name"])]
    known = [] if results["reason"] else [one for one in results["metrics"] if one["value"] is not None]
    if not known:
        return front
    front["metrics"] = [_HUB_METRICS[one["metric"]] for one in known]
    level = f"{100 * results['level']:g} % interval"
    scores = [
        {
            "type": _HUB_METRICS[one["metric"]],
            "name": f"{one['title']} ({level} {interval(one['low'], one['high'])})",
            "value": round(one["value"], 4),
        }
        for one in known
    ]
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": _slug(data["name"]), "name": one_line(data["title"]), "split": "test"},
        "metrics": scores,
    }
    return front | {"model-index": [{"name": one_line(facts["name"]), "results": [result]}]}


def _licence(data: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the licence of the data, from which the network was made: we know of no other that holds for the weights."""
    licence = data["licence"] if data and data["published"] else None
    if licence is None:
        return {"license": "unknown"}
    if licence in _LICENCES:
        return {"license": _LICENCES[licence]}
    return {"license": "other", "license_name": _slug(licence)}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "unnamed"
