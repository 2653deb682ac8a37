"""Functions that open no network, for tests of the worker and the server: what they do depends on the bytes they get."""

import os
import time
from base64 import b64encode
from pathlib import Path

import numpy as np

from skinkd.errors import UserError
from skinkd.web.work import Opened


def behave(image: bytes) -> dict:
    """Do what the first word says."""
    word, _, rest = image.partition(b" ")
    if word == b"hang":
        time.sleep(600)
    if word == b"crash":
        os.abort()
    if word == b"memory":
        return {"sum": float(np.ones((20_000, 20_000)).sum())}
    if word == b"native-memory":
        import cv2

        return {"sum": float(cv2.resize(np.ones((8, 8), np.uint8), (40_000, 40_000)).sum())}
    if word == b"write":
        Path(rest.decode()).write_bytes(b"image")
    if word == b"refuse":
        raise UserError("the image is a drawing")
    if word == b"fault":
        raise ValueError("a mistake in the program")
    if word == b"nan":
        return {"probability": float("nan")}
    if word == b"slow":
        time.sleep(0.3)
    return {"bytes": len(image), "process": os.getpid()}


def open_behaviour() -> Opened:
    examples = [{"name": "mel", "jpeg": b64encode(b"\xff\xd8 drawn").decode()}]
    return Opened({"network": "a network of the tests", "examples": examples}, behave)


def open_nothing() -> Opened:
    raise UserError("run=nowhere is neither a run folder nor a checkpoint")


def open_and_die() -> Opened:
    os._exit(3)


def open_never() -> Opened:
    time.sleep(600)
    raise AssertionError
