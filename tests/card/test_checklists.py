"""The appendix of a model card: the items of two reporting guidelines."""

import re

from cards import Card

from skinkd.card.checklists import ANSWERS, checklists


def test_every_item_of_both_guidelines_is_there_once(card: Card) -> None:
    claim, tripod = (one["items"] for one in card.facts["checklists"])
    assert [row["item"] for row in claim] == [str(k) for k in range(1, 45)]
    letters = {
        3: "abc",
        5: "ab",
        6: "abc",
        8: "abc",
        9: "abc",
        12: "abcdefg",
        18: "abcdef",
        20: "abc",
        23: "ab",
        27: "abc",
    }
    expected = [f"{k}{letter}" for k in range(1, 28) for letter in letters.get(k, [""])]
    assert [row["item"] for row in tripod] == expected and len(expected) == 52
    for row in (*claim, *tripod):
        assert row["answer"] in ANSWERS and row["topic"] and row["where"]
    assert "They are no claim that a guideline is\nfollowed" in card.body


def test_an_item_points_to_a_section_of_the_card(card: Card) -> None:
    """What begins with a capital letter is a section, or a row of one after a comma."""
    titles = set(re.findall(r"^#+ (.*)$", card.body, re.MULTILINE)) | {"By class and by subgroup"}
    for one in card.facts["checklists"]:
        for row in one["items"]:
            for place in row["where"].split("; "):
                named = re.split(r"[,:]", place)[0]
                assert not named[0].isupper() or named in titles, (row["item"], place)


def test_items_without_facts_are_not_answered(card: Card) -> None:
    bare = {**card.facts, "data": None, "results": {"reason": "x"}, "subgroups": {"reason": "x"}}
    before, after = (
        [row["answer"] for one in checklists(facts) for row in one["items"]] for facts in (card.facts, bare)
    )
    order = {"no": 0, "partly": 1, "yes": 2}
    assert all(order[a] <= order[b] for a, b in zip(after, before, strict=True))
    assert after.count("no") > before.count("no")
