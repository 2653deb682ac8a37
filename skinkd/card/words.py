"""The sentences of a model card that follow from its facts: what the network is for, what not, and its known limits."""

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]

_PROTOCOLS = {
    "grouped": "All images of a lesion are in one part.",
    "image_level": "Single images were split without regard to lesions, so one lesion may be in several parts.",
    "oversampled": "Images of rarer classes were copied first, and single images were split then, so copies of one image may "
    "be in several parts.",
    "official": "The dataset came with this split. It may put one lesion into several parts.",
}


def protocol_sentence(protocol: str) -> str:
    """Return what a protocol of splitting means for lesions."""
    return _PROTOCOLS.get(protocol, "The split is that of another dataset with the same images.")


def intended_use(facts: Facts) -> list[str]:
    """Return what the network may be used for."""
    sentences = [
        "Research on image classification and on knowledge distillation: to repeat the run, to compare methods, to study "
        "errors.",
        "Teaching, with the limits below in view.",
    ]
    if facts["data"] and facts["data"]["drawn"]:
        sentences = ["To see that training, scoring and export work. The network has seen no real image."]
    return sentences


def not_for(facts: Facts) -> list[str]:
    """Return what the network must not be used for."""
    data = facts["data"]
    sentences = [
        "It is not a medical device, and no authority has cleared or approved it. It must not be used to diagnose, to screen, "
        "to choose a treatment, or to examine oneself.",
        "It was not tested in a clinical study or against physicians.",
    ]
    if data:
        sentences.append(f"It is not for images other than those it was trained on: {data['shows']}.")
    if data and data["licence"] and "-NC" in data["licence"]:
        sentences.append(f"The licence of the data, {data['licence']}, excludes commercial use.")
    return sentences


def limits(facts: Facts) -> list[str]:
    """Return the known limits, the gravest first."""
    classes = len(facts["model"]["classes"])
    size = facts["model"]["image_size"]
    return [
        *_data_limits(facts["data"]),
        *_split_limits(facts["split"]),
        *_score_limits(facts["results"]),
        *_group_limits(facts),
        f"The network names one of its {classes} classes for every image, also for an image that shows none of them. It does "
        "not notice such images.",
        f"Every image is scaled to {size} by {size} pixels. Finer detail is lost.",
    ]


def _data_limits(data: Facts | None) -> list[str]:
    if data is None:
        return ["Neither the data nor the scores of this network are known, because its run folder was not given."]
    if data["drawn"]:
        return [
            "All images are drawings. No score here says anything about real skin, or about which method is better."
        ]
    return []


def _split_limits(split: Facts | None) -> list[str]:
    if not split:
        return []
    shared, sentences = split["test_images_with_lesion_in_train"], []
    if shared:
        sentences.append(
            f"The split leaks: {100 * shared:.1f} % of the test images show a lesion that is also in the training part. The "
            "scores are too high, by an unknown amount."
        )
    pairs = (split["near_duplicate_pairs"] or {}).get("test-train", 0)
    if pairs:
        sentences.append(
            f"{pairs} pairs of near-copies have one image in the test part and one in the training part, although the data "
            "counts them as different lesions."
        )
    return sentences


def _score_limits(results: Facts) -> list[str]:
    if results["reason"]:
        return []
    sentences = [
        "The test images are from the same source as the training images. The scores say nothing about another clinic, "
        "camera or population.",
        "The scores are of one training with one seed and one split. Another seed or split gives other scores, and the "
        "intervals do not include that.",
    ]
    known = [one for one in results["classes"] if one["sensitivity"] is not None]
    missed = [f"{one['class']} ({one['sensitivity']:.2f})" for one in known if one["sensitivity"] < 0.5]
    if missed:
        sentences.insert(
            0, f"The network finds less than half of the test images of these classes: {', '.join(missed)}."
        )
    least = results["least_lesions"]
    few = [f"{one['class']} ({one['lesions']})" for one in results["classes"] if one["lesions"] < least]
    if few:
        sentences.append(f"The test part has fewer than {least} lesions of these classes: {', '.join(few)}.")
    return sentences


def _group_limits(facts: Facts) -> list[str]:
    data, subgroups = facts["data"], facts["subgroups"]
    if not data or data["drawn"]:
        return []
    if not subgroups["reason"]:
        sentences = ["The data tells no skin tones, so no score by skin tone is possible."]
    else:
        sentences = ["Whether the network works equally well for all groups of people was not measured."]
    if data["published"] and not data["by_patient"]:
        sentences.append(
            "The data does not tell which images are of one patient, so a patient may be in several parts."
        )
    return sentences
