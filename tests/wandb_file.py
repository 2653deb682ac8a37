"""What is in a W&B offline file: its records by W&B's own message classes.

The file is a LevelDB log: blocks of 32 KiB of fragments, each with a header of seven bytes (CRC-32, length, kind).
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as messages

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(file: Path) -> Iterator[bytes]:
    data = file.read_bytes()
    assert data[:4] == b":W&B", f"{file} is no W&B file"
    at, parts = FILE_HEADER, []
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too little room for a header: padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if kind == 0:
            break
        fragment = data[at + HEADER : at + HEADER + length]
        assert len(fragment) == length
        parts = [fragment] if kind in (FULL, FIRST) else [*parts, fragment]
        if kind in (FULL, LAST):
            yield b"".join(parts)
        at += HEADER + length


class WandbFile:
    """One offline run.

    Attributes:
        run: its first record: id, group, job type, tags.
        config: the configuration, by dotted name's first part.
        history: logged rows, in order.
        summary: the final summary.
        metrics: what ``define_metric`` said, by metric's name or pattern.
        files: names of the files that belong to the run.
        artifacts: names of the logged artifacts.
        exit_code: how it ended, or None.
    """

    def __init__(self, folder: Path) -> None:
        (file,) = folder.glob("*.wandb")
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.files: list[str] = []
        self.artifacts: list[str] = []
        self.exit_code: int | None = None
        for payload in payloads(file):
            record = messages.Record.FromString(payload)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= _values(record.run.config.update)
            elif kind == "config":
                self.config |= _values(record.config.update)
            elif kind == "history":
                self.history.append(_values(record.history.item))
            elif kind == "summary":
                self.summary |= _values(record.summary.update)
            elif kind == "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric
            elif kind == "files":
                self.files += [entry.path for entry in record.files.files]
            elif kind == "artifact":
                self.artifacts.append(record.artifact.name)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
