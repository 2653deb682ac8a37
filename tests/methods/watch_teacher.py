"""``python -m skinkd.train`` with a look at the teacher around training, in every process: a program, not a test."""

import copy
import hashlib
import json
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

import skinkd.train
import skinkd.training.run
from skinkd.config import cli


class Watch(Callback):
    """Writes ``teacher-<rank>.json`` into the current folder: what of the teacher is not as it was before training."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.before = copy.deepcopy(pl_module.teacher.network.state_dict())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        teacher = pl_module.teacher
        after = teacher.network.state_dict()
        assert any("running_mean" in name for name in after)
        assert pl_module.trainer.world_size == 2
        digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in after.values()))
        seen = {
            "steps": trainer.global_step,
            "digest": digest.hexdigest(),
            "changed": [name for name, value in self.before.items() if not value.equal(after[name])],
            "training": [name for name, module in teacher.named_modules() if module.training],
            "with_gradient": [
                name for name, value in teacher.named_parameters() if value.requires_grad or value.grad is not None
            ],
        }
        Path(f"teacher-{trainer.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    plain = skinkd.training.run.fit_callbacks
    skinkd.training.run.fit_callbacks = lambda *args: [*plain(*args), Watch()]
    cli.main(skinkd.train.train, "train")
