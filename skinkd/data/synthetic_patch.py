"""The embedded dataset with an artefact that tells a class: every photograph of one class shows a coloured patch.

Ours, after the coloured patches beside some lesions of the ISIC archive. A network that is trained on it can learn the patch
in place of the lesion, and knowing where the patch is, one can check whether an explanation shows that.
"""

from pathlib import Path

from skinkd.data.ham10000_folder import CLASS_NAMES, SUBGROUPS, lesion_mask, read_folder
from skinkd.data.source import Source
from skinkd.data.synthetic import CLASSES, artefact_masks, generate
from skinkd.data.table import ImageTable

SOURCE = Source(
    licence="none of others",
    title="the embedded dataset of skinkd with a coloured patch",
    shows="drawings that imitate dermatoscopic images and say nothing about real skin; a coloured patch shows one class",
    class_names=CLASS_NAMES,
    same_lesion="they are drawn from the same lesion",
    subgroups=SUBGROUPS,
    ids="synthetic {images} {height} {width} {seed} with a patch on {patch_class}",
    generated=True,
    lesion_mask=lesion_mask,
    artefact_masks=artefact_masks,
)


def load_synthetic_patch(
    root: str | Path, *, images: int, height: int, width: int, seed: int, patch_class: str, on_bad_image: str
) -> ImageTable:
    """Return the table of the embedded dataset with a patch on ``patch_class``, made under ``root`` if it is not there."""
    folder = generate(
        Path(root).expanduser(), images=images, image_size=(height, width), seed=seed, patch_class=patch_class
    )
    return ImageTable("synthetic_patch", tuple(CLASSES), read_folder(folder, on_bad_image=on_bad_image).frame)
