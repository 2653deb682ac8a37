"""Groups of images that must stay in one part of a split."""

from collections.abc import Iterable, Sequence


def connected_groups(
    image_ids: Sequence[str], lesion_ids: Sequence[str], pairs: Iterable[tuple[str, str]]
) -> list[str]:
    """Return each image's group: images are joined by equal lesion id, by pair, and by chains of these.

    A group is named by the smallest lesion id in it, so that the name does not depend on the order of the
    rows. Pairs that name an image not in ``image_ids`` are ignored.
    """
    parent = {lesion: lesion for lesion in lesion_ids}

    def root(lesion: str) -> str:
        while parent[lesion] != lesion:
            parent[lesion] = parent[parent[lesion]]
            lesion = parent[lesion]
        return lesion

    lesion_of = dict(zip(image_ids, lesion_ids, strict=True))
    for first, second in pairs:
        if first in lesion_of and second in lesion_of:
            low, high = sorted((root(lesion_of[first]), root(lesion_of[second])))
            parent[high] = low
    return [root(lesion) for lesion in lesion_ids]
