"""Leak-free, resumable experiments in knowledge distillation on skin-lesion images."""

import os

# without this, the import of albumentations asks the network for a newer version
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
