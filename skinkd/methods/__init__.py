"""The distillation methods, one LightningModule a file."""
