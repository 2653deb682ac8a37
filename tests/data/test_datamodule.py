import hashlib
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from skinkd.batch import NO_LABEL, Batch
from skinkd.data.datamodule import SkinDataModule
from skinkd.data.dataset import SkinDataset, whole_batch
from skinkd.data.files import read_image
from skinkd.data.ham10000 import load_ham10000
from skinkd.data.splits import make_split
from skinkd.data.table import ImageTable, UnlabelledTable
from skinkd.data.transforms import eval_pipeline, train_pipeline
from skinkd.errors import UserError

SIZE = 16
LESIONS = {"nv": 8, "mel": 4, "akiec": 3, "bcc": 3, "bkl": 3, "df": 3, "vasc": 3}


def transforms() -> list[Any]:
    return [
        A.RandomResizedCrop(size=(SIZE, SIZE), scale=(0.3, 1.0), p=1.0),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter(p=1.0),
    ]


@pytest.fixture
def table(ham_folder: Callable[..., Path]) -> ImageTable:
    return load_ham10000(ham_folder(lesions=LESIONS), on_bad_image="error")


@pytest.fixture
def parts(table: ImageTable) -> pd.Series:
    fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
    return make_split(table, protocol="grouped", fractions=fractions, seed=0, fold=None, folds=None)


@pytest.fixture
def make(table: ImageTable, parts: pd.Series) -> Callable[..., SkinDataModule]:
    def build(**changes: Any) -> SkinDataModule:
        settings: dict[str, Any] = {
            "table": table,
            "parts": parts,
            "train_pipeline": train_pipeline(transforms(), image_size=SIZE),
            "eval_pipeline": eval_pipeline(image_size=SIZE),
            "views": "one",
            "batch_size": 4,
            "eval_batch_size": 5,
            "num_workers": 0,
            "seed": 0,
            "sampler": "none",
        }
        return SkinDataModule(**(settings | changes))

    return build


def epoch_of(module: SkinDataModule, epoch: int) -> dict[int, torch.Tensor]:
    """Return the training images of an epoch by index."""
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return {int(i): image for batch in loader for i, image in zip(batch.index, batch.image, strict=True)}


@pytest.mark.parametrize(("views", "number"), [("one", 1), ("two", 2), ("four_rotations", 4)])
def test_training_batches_have_views_and_whole_batches(
    make: Callable[..., SkinDataModule], views: str, number: int
) -> None:
    module = make(views=views)
    rows = module.rows("train")
    loader = module.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == len(rows) // 4
    seen = []
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.image.shape == (4, number, 3, SIZE, SIZE) and batch.image.dtype == torch.uint8
        assert batch.label.dtype == batch.index.dtype == torch.int64
        assert batch.label.tolist() == rows["label"][batch.index.numpy()].tolist()
        if number > 1:
            assert not torch.equal(batch.image[:, 0], batch.image[:, 1])
        seen += batch.index.tolist()
    assert len(set(seen)) == len(seen) and set(seen) <= set(range(len(rows)))


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_batches_are_the_part_in_order_without_views(
    make: Callable[..., SkinDataModule], table: ImageTable, parts: pd.Series, part: str
) -> None:
    module = make()
    rows = module.rows(part)
    assert rows["image_id"].tolist() == table.frame["image_id"][(parts == part).to_numpy()].tolist()
    assert rows.index.tolist() == list(range(len(rows)))
    batches = list(getattr(module, f"{part}_dataloader")())
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(len(rows)))
    assert torch.cat([batch.label for batch in batches]).tolist() == rows["label"].tolist()
    images = torch.cat([batch.image for batch in batches])
    assert images.shape == (len(rows), 3, SIZE, SIZE)
    resize = eval_pipeline(image_size=SIZE)
    for image, path in zip(images, rows["path"], strict=True):
        expected = resize(image=read_image(path))["image"]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("views", ["one", "four_rotations"])
def test_workers_change_nothing_and_repeat_nothing(make: Callable[..., SkinDataModule], views: str) -> None:
    alone = [epoch_of(make(views=views), epoch) for epoch in range(2)]
    module = make(num_workers=2, views=views)
    loader = module.train_dataloader()
    assert loader.persistent_workers
    for epoch in range(2):  # the same, living workers for both epochs
        loader.sampler.set_epoch(epoch)
        images = {int(i): x for batch in loader for i, x in zip(batch.index, batch.image, strict=True)}
        assert list(images) == list(alone[epoch])
        assert all(torch.equal(images[index], alone[epoch][index]) for index in images)
    both = set(alone[0]) & set(alone[1])
    assert len(both) >= 16
    assert not any(torch.equal(alone[0][index], alone[1][index]) for index in both)


def test_every_image_epoch_and_seed_gets_an_augmentation_of_its_own(table: ImageTable) -> None:
    frame = table.frame.assign(path=table.frame["path"][0])  # one picture under every index
    pipeline = train_pipeline(transforms(), image_size=SIZE)
    datasets = [SkinDataset(frame, pipeline=pipeline, views="two", seed=seed) for seed in range(2)]
    keys = [(index, epoch) for index in range(len(frame)) for epoch in range(3)]
    views = [view.numpy().tobytes() for dataset in datasets for key in keys for view in dataset[key].image]
    assert len(views) == len(set(views)) == 2 * len(keys) * 2
    # and the order of asking does not matter, nor the generators of the process
    torch.manual_seed(5), np.random.seed(5)
    again = [view.numpy().tobytes() for key in reversed(keys) for view in datasets[0][key].image.flip(0)]
    assert again[::-1] == views[: len(again)]


def test_an_integer_key_is_epoch_zero(make: Callable[..., SkinDataModule], table: ImageTable) -> None:
    dataset = SkinDataset(table.frame, pipeline=train_pipeline(transforms(), image_size=SIZE), views="one", seed=0)
    assert len(dataset) == len(table)
    assert torch.equal(dataset[3].image, dataset[3, 0].image)
    with pytest.raises(UserError, match="views=three"):
        SkinDataset(table.frame, pipeline=dataset.pipeline, views="three", seed=0)


def test_images_without_labels_are_what_evaluation_sees_and_no_class_can_be_read_from_them(table: ImageTable) -> None:
    pipeline = eval_pipeline(image_size=SIZE)
    labelled, unlabelled = (
        SkinDataset(frame, pipeline=pipeline, views=None, seed=0)
        for frame in (table.frame, UnlabelledTable(table.name, table.frame).frame)
    )
    batch = next(iter(DataLoader(unlabelled, batch_size=len(table), collate_fn=whole_batch)))
    assert torch.equal(batch.image, torch.stack([labelled[index].image for index in range(len(table))]))
    assert batch.label.dtype == torch.int64 and (batch.label == NO_LABEL).all()
    assert batch.index.tolist() == list(range(len(table)))
    with pytest.raises(IndexError, match="out of bounds"):
        torch.nn.functional.cross_entropy(torch.zeros(len(table), 3), batch.label)
    with pytest.raises(ValueError, match="negative"):
        np.bincount(unlabelled.labels)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_images(make: Callable[..., SkinDataModule], world: int) -> None:
    trained, validated, lengths = [], [], []
    for rank in range(world):
        module = make(batch_size=2)
        module.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        lengths.append(len(module.train_dataloader()))
        images = epoch_of(module, 1)
        trained.append(set(images))
        validated += [int(i) for batch in module.val_dataloader() for i in batch.index]
        alone = epoch_of(make(batch_size=1), 1)
        assert all(torch.equal(images[index], alone[index]) for index in images)
    assert len(set(lengths)) == 1
    assert sum(map(len, trained)) - len(set.union(*trained)) <= world - 1  # only what fills up the last round
    assert sorted(validated) == list(range(len(make().rows("val"))))  # none twice, none left out


def test_counts_and_sampling_come_from_the_training_part(
    make: Callable[..., SkinDataModule], table: ImageTable, parts: pd.Series
) -> None:
    module = make(sampler="balanced")
    train = table.frame["label"][(parts == "train").to_numpy()]
    assert module.class_counts == [int((train == label).sum()) for label in range(7)]
    assert sum(module.class_counts) == len(train) < len(table)
    loader = module.train_dataloader()
    labels = []
    for epoch in range(60):
        loader.sampler.set_epoch(epoch)
        labels += [module.rows("train")["label"][index] for index, _ in loader.sampler]
    shares = np.bincount(labels, minlength=7) / len(labels)
    np.testing.assert_allclose(shares, 1 / 7, atol=0.035)  # 5 standard deviations
    assert max(train.value_counts(normalize=True)) > 0.25
    whole = make(parts=pd.Series("train", index=parts.index), sampler="none")
    assert whole.class_counts == [2 * LESIONS[name] for name in table.classes]
    assert whole.rows("val").empty


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 1000}, ["data.batch_size=1000", "training images;", "or less"]),
        ({"batch_size": 0}, ["data.batch_size=0"]),
        ({"eval_batch_size": 0}, ["data.eval_batch_size=0"]),
        ({"num_workers": -1}, ["data.num_workers=-1"]),
        ({"sampler": "balance"}, ["did you mean 'balanced'"]),
        ({"views": "for_rotations"}, ["did you mean 'four_rotations'"]),
    ],
)
def test_wrong_settings(make: Callable[..., SkinDataModule], changes: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        make(**changes)
    assert all(word in str(error.value) for word in words), error.value


def test_a_batch_must_fit_the_share_of_each_process(make: Callable[..., SkinDataModule]) -> None:
    images = len(make().rows("train"))
    module = make(batch_size=images // 2 + 1)
    module.trainer = SimpleNamespace(global_rank=0, world_size=2)
    share = -(-images // 2)
    if images % 2:
        assert len(module.train_dataloader()) == 1
        module = make(batch_size=share + 1)
        module.trainer = SimpleNamespace(global_rank=0, world_size=2)
    with pytest.raises(UserError, match=f"the {share} training images of each of the 2 processes"):
        module.train_dataloader()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_damaged_after_the_start_is_named(make: Callable[..., SkinDataModule], num_workers: int) -> None:
    module = make(num_workers=num_workers)
    path = Path(module.rows("val")["path"][1])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError) as error:
        list(module.val_dataloader())
    last = "".join(traceback.format_exception_only(error.value)).strip().splitlines()[-1]
    assert f"{path} is truncated; replace the file" in last


class Recorder(L.LightningModule):
    """Learns nothing and writes down every training batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.batches: list[tuple[int, list[int], str]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        digest = hashlib.sha256(batch.image.numpy().tobytes()).hexdigest()
        self.batches.append((self.current_epoch, batch.index.tolist(), digest))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class SaveAndStop(L.Callback):
    """Saves a checkpoint in one hook, once a number of batches has been seen, and ends the run there."""

    def __init__(self, hook: str, batches: int, path: Path):
        self.batches, self.path = batches, path
        setattr(self, hook, self.stop)

    def stop(self, trainer: L.Trainer, model: Recorder, *unused: Any) -> None:
        if len(model.batches) == self.batches:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def fit(module: SkinDataModule, folder: Path, *, resume: Path | None, callbacks: list[L.Callback]) -> Recorder:
    model = Recorder()
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    with suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(model, datamodule=module, ckpt_path=resume)
    return model


@pytest.mark.filterwarnings("error:.*not resumable.*")
@pytest.mark.parametrize(
    ("hook", "epochs", "batches", "num_workers"),
    [
        ("on_train_batch_end", 0, 2, 0),
        ("on_train_batch_end", 1, 0, 0),  # the last batch of an epoch
        ("on_train_batch_end", 1, 3, 0),
        ("on_validation_end", 1, 0, 0),  # where ModelCheckpoint saves
        ("on_train_epoch_end", 2, 0, 0),
        ("on_train_batch_end", 1, 3, 2),
        ("on_validation_end", 1, 0, 2),
    ],
)
def test_a_resumed_run_sees_the_same_batches(
    make: Callable[..., SkinDataModule],
    tmp_path: Path,
    hook: str,
    epochs: int,
    batches: int,
    num_workers: int,
) -> None:
    whole = fit(make(), tmp_path, resume=None, callbacks=[]).batches
    per_epoch = len(make().train_dataloader())
    assert per_epoch > 3
    assert len({digest for _, _, digest in whole}) == len(whole) == 3 * per_epoch

    checkpoint, stop = tmp_path / "last.ckpt", epochs * per_epoch + batches
    callback = SaveAndStop(hook, stop, checkpoint)
    first = fit(make(num_workers=num_workers), tmp_path, resume=None, callbacks=[callback]).batches
    assert first == whole[:stop]
    second = fit(make(num_workers=num_workers), tmp_path, resume=checkpoint, callbacks=[]).batches
    assert second == whole[stop:]


@pytest.mark.slow
def test_the_real_images_load_alike_with_and_without_workers(real_data: Path) -> None:
    table = load_ham10000(real_data / "ham10000", on_bad_image="error")
    rows = table.frame.iloc[:: len(table) // 300].reset_index(drop=True)
    small = ImageTable("part", table.classes, rows)
    parts = pd.Series(np.resize(["train", "train", "val", "test"], len(rows)))
    images = []
    for num_workers in (0, 2):
        module = SkinDataModule(
            table=small,
            parts=parts,
            train_pipeline=train_pipeline(transforms(), image_size=SIZE),
            eval_pipeline=eval_pipeline(image_size=SIZE),
            views="two",
            batch_size=16,
            eval_batch_size=16,
            num_workers=num_workers,
            seed=0,
            sampler="sqrt",
        )
        images.append(torch.cat([batch.image for batch in module.train_dataloader()]))
    assert torch.equal(*images)
