"""Images of a user, prepared for a network in loading processes; an unreadable image becomes its error."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from skinkd.data.dataset import start_worker
from skinkd.data.decode import decode_file
from skinkd.data.transforms import eval_pipeline
from skinkd.errors import UserError


class Loaded(NamedTuple):
    """A batch of images.

    Attributes:
        place: number of each image that was read, among all that were given, (N,).
        images: uint8 RGB, (N, 3, H, W).
        errors: one sentence for each image that was not read, by its number.
    """

    place: list[int]
    images: NDArray[np.uint8]
    errors: dict[int, str]


class ImageFiles(Dataset[NDArray[np.uint8] | str]):
    """Image files as validation and test prepare them: item i is uint8 RGB (3, H, W), or the sentence why it is not.

    Args:
        paths: of the images.
        image_size: height and width, px.
        max_pixels: most pixels of an image that is decoded.
    """

    def __init__(self, paths: Sequence[str], *, image_size: int, max_pixels: int):
        self.paths, self.max_pixels = paths, max_pixels
        self.pipeline = eval_pipeline(image_size=image_size)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8] | str:
        """Read and prepare image ``index``."""
        try:
            image = decode_file(self.paths[index], max_pixels=self.max_pixels)
            return np.ascontiguousarray(self.pipeline(image=image)["image"].transpose(2, 0, 1))
        except UserError as error:
            return str(error)


def load_images(files: ImageFiles, *, batch_size: int, num_workers: int) -> Iterator[Loaded]:
    """Yield the images in batches, in their order, with a progress bar in a terminal."""
    loader = DataLoader(
        files, batch_size=batch_size, num_workers=num_workers, collate_fn=list, worker_init_fn=start_worker
    )
    with tqdm(total=len(files), desc="predicting", unit="image", disable=None, leave=False) as bar:
        for number, batch in enumerate(loader):
            items = dict(enumerate(batch, start=number * batch_size))
            read = {place: item for place, item in items.items() if not isinstance(item, str)}
            shape = (0, 3, 1, 1)
            yield Loaded(
                place=list(read),
                images=np.stack(list(read.values())) if read else np.zeros(shape, np.uint8),
                errors={place: item for place, item in items.items() if isinstance(item, str)},
            )
            bar.update(len(items))
