"""The distillation methods. Each is a LightningModule in a file of its name."""
