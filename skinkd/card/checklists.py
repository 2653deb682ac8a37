"""Which items of two reporting guidelines a run can answer, and which not: the appendix of a model card.

CLAIM, 2024 update: Tejani et al., Radiology: Artificial Intelligence 6(4):e240300 (2024). TRIPOD+AI: Collins et al., BMJ
385:e078378 (2024). The numbers of the items are theirs; the words and the answers in ``checklists.csv`` are ours.
"""

import csv
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

GUIDELINES = {
    "CLAIM": "CLAIM, 2024 update (Tejani et al., Radiology: Artificial Intelligence 6(4):e240300, 2024)",
    "TRIPOD+AI": "TRIPOD+AI (Collins et al., BMJ 385:e078378, 2024)",
}
ANSWERS = ("yes", "partly", "no")

_ABSENT = {
    "run": "the run folder was not given",
    "scores": "the test part has no scores",
    "published": "the data is not a published dataset",
    "subgroups": "the data has no subgroups that could be read",
}


def checklists(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each guideline with its items: item, topic, answer ("yes", "partly" or "no"), and where or why."""
    present = {
        "": True,
        "run": facts["data"] is not None,
        "scores": facts["results"]["reason"] is None,
        "published": bool(facts["data"] and facts["data"]["published"]),
        "subgroups": facts["subgroups"]["reason"] is None,
    }
    text = files("skinkd.card").joinpath("checklists.csv").read_text(encoding="utf-8")
    found: dict[str, list[dict[str, str]]] = {name: [] for name in GUIDELINES}
    for row in csv.DictReader(text.splitlines()):
        answered = present[row["needs"]]
        found[row["guideline"]].append(
            {
                "item": row["item"],
                "topic": row["topic"],
                "answer": row["answer"] if answered else "no",
                "where": row["where"] if answered else f"{_ABSENT[row['needs']]}",
            }
        )
    return [{"guideline": name, "title": title, "items": found[name]} for name, title in GUIDELINES.items()]
