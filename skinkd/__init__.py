"""Leak-free, resumable experiments in knowledge distillation on skin-lesion images."""

import os

# albumentations asks the network for a newer version of itself when imported, unless told not to
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
