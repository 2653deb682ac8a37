"""The order of the images in an epoch, which follows from seed and epoch alone, and a loader that resumes in it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from skinkd.batch import Batch
from skinkd.errors import check_choice

SAMPLERS = ("none", "balanced", "sqrt", "per_class")


class EpochSampler(Sampler[tuple[int, ...]]):
    """Yields (index, epoch): every epoch shuffles the images anew, or draws them with replacement by weight.

    The epoch is given with each index, since the loading processes are not told of it otherwise. All training processes
    draw the same order, and each takes every ``world``-th image of it. The order is repeated from its start up to a
    multiple of ``world``, so that all processes have the same number of batches.

    Args:
        length: number of images.
        seed: of the order.
        rank: this process, 0..world-1.
        world: number of processes.
        weights: relative probability of each image; None: each image comes once.
        per_class: the labels of all images, and the number of images of each class in an epoch. An image comes a second
            time only after every image of its class has come; of a larger class, each epoch has another choice.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        rank: int,
        world: int,
        weights: np.ndarray | None,
        per_class: tuple[np.ndarray, int] | None = None,
    ):
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} processes")
        if weights is not None and len(weights) != length:
            raise ValueError(f"{len(weights)} weights for {length} images")
        self.seed, self.rank, self.world = seed, rank, world
        self.probabilities = None if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
        self.rows, self.target = None, 0
        if per_class is not None:
            labels, self.target = per_class
            self.rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.images = length
        self.length = length if self.rows is None else len(self.rows) * self.target
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return how many images this process gets in a whole epoch."""
        return -(-self.length // self.world)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch, of all processes; a multiple of their number."""
        order = self._drawn(np.random.default_rng((self.seed, epoch)))
        return np.resize(order, len(self) * self.world)  # repeats the beginning at the end

    def _drawn(self, rng: np.random.Generator) -> np.ndarray:
        if self.rows is not None:
            drawn = [np.resize(rng.permutation(rows), self.target) for rows in self.rows]
            return rng.permutation(np.concatenate(drawn))
        if self.probabilities is not None:
            return rng.choice(self.images, size=self.length, p=self.probabilities)
        return rng.permutation(self.images)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Yield this process's (index, epoch), leaving out the first ``skip``."""
        for index in self._order(self.epoch)[self.rank :: self.world][self.skip :]:
            yield int(index), self.epoch


class PairSampler(EpochSampler):
    """Yields (index, epoch, partner, the partner's epoch): each image of an EpochSampler's order with another image.

    Args:
        labels: of all images.
        pairs: "class_pair": the partner is drawn from the image's class, with replacement, and may be the image itself (CS-KD;
            Yun et al., 2020). "last_batch": the partner has the image's place in the last batch of this process (DLB; Shen et
            al., 2022). The partners of the first batch are its own images.
        batch_size: of this process; an incomplete batch at the end of an epoch is no batch.
        order: the arguments of EpochSampler.
    """

    def __init__(self, labels: np.ndarray, *, pairs: str, batch_size: int, **order: Any):
        super().__init__(len(labels), **order)
        self.labels, self.pairs, self.batch_size = labels, pairs, batch_size

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Yield this process's keys, leaving out the first ``skip``."""
        order = self._order(self.epoch)
        own = order[self.rank :: self.world]
        epochs = np.full(len(own), self.epoch)
        if self.pairs == "class_pair":
            partners, of_partners = self._of_same_class(order)[self.rank :: self.world], epochs
        else:
            partners, of_partners = self._of_last_batch(own)
        for key in list(zip(own, epochs, partners, of_partners, strict=True))[self.skip :]:
            yield tuple(int(number) for number in key)

    def _of_same_class(self, order: np.ndarray) -> np.ndarray:
        """Draw a partner for each index of the epoch, of all processes."""
        rng = np.random.default_rng((self.seed, self.epoch, 1))
        by_class = np.argsort(self.labels, kind="stable")
        count = np.bincount(self.labels)
        label = self.labels[order]
        return by_class[(np.cumsum(count) - count)[label] + rng.integers(count[label])]

    def _of_last_batch(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the partners of this process's indices, and the epochs that they are of."""
        batch, first = self.batch_size, self.epoch == 0
        before = own if first else self._order(self.epoch - 1)[self.rank :: self.world]
        last = own[:batch] if first else before[: len(before) // batch * batch][-batch:]
        epochs = np.full(len(own), self.epoch)
        epochs[:batch] = max(self.epoch - 1, 0)
        return np.concatenate([last, own[:-batch]]), epochs


class ResumableLoader(DataLoader[Batch]):
    """A DataLoader that Lightning saves in the checkpoint: a resumed run neither repeats nor skips images.

    Iteration begins when the first batch is asked for, not at ``iter()``: Lightning calls ``iter()`` before it tells the
    sampler the epoch, and worker processes would fetch images of the wrong epoch.
    """

    sampler: EpochSampler
    _batches = 0  # yielded in the current epoch
    _resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches of the sampler's epoch; after a state of that epoch was loaded, the remaining ones."""
        resume, self._resume = self._resume, None
        self._batches = resume["batches"] if resume and resume["epoch"] == self.sampler.epoch else 0
        self.sampler.skip = self._batches * (self.batch_size or 1)
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of batches of it that were yielded."""
        return {"epoch": self.sampler.epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state at the next iteration, if the state is of the same epoch."""
        self._resume = dict(state)


def class_balance_weights(labels: np.ndarray, *, sampler: str) -> np.ndarray | None:
    """Return each training image's sampling weight; None: each image comes once, or "per_class" counts them.

    For a class of n_c images, "balanced" is 1/n_c, which draws every class equally often, and "sqrt" is 1/sqrt(n_c).
    """
    check_choice("sampler", sampler, SAMPLERS)
    if sampler in ("none", "per_class"):
        return None
    counts = np.bincount(labels)[labels].astype(np.float64)
    return 1 / counts if sampler == "balanced" else 1 / np.sqrt(counts)
