"""The committed archives, written anew from finished run folders: ``python -m benchmarks.study pack``."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml

from . import published, variants
from .archive import PACKED, TESTED, pack
from .collect import ARCHIVES, HERE


def pack_rows(output: Path, regime: str) -> None:
    """Write the archives of a regime's rows; an archive without runs stays as it is."""
    of_seed: dict[int, list[Path]] = {}
    for file in sorted(output.glob("*/metrics.json")):
        config = yaml.safe_load((file.parent / "config.yaml").read_text(encoding="utf-8"))
        of_seed.setdefault(config["seed"], []).append(file.parent)
    if not of_seed:
        raise SystemExit(f"no finished runs in {output}: {', '.join(ARCHIVES[regime])} stay as they are")
    if more := [str(seed) for seed in of_seed if seed >= len(ARCHIVES[regime])]:
        raise SystemExit(
            f"seed {', '.join(more)} has no archive: add its name to ARCHIVES in benchmarks/study/collect.py"
        )
    for seed, folders in of_seed.items():
        pack(folders, HERE / ARCHIVES[regime][seed], preset=6, patterns=TESTED if seed else PACKED)


def pack_ablations(output: Path, regime: str) -> None:
    """Write the archive of a regime's ablations, of the runs that ablations.csv names."""
    if regime not in variants.ARCHIVES:
        raise SystemExit(f"{regime} has no archive: add its name to ARCHIVES in benchmarks/study/variants.py")
    table = pd.read_csv(variants.RESULTS["ablations"])
    names = table.loc[table["regime"] == regime, "folder"]
    # a row as chosen is among the rows' runs
    folders = [folder if (folder := output / "variants" / name).exists() else output / name for name in names]
    _pack_whole(folders, variants.ARCHIVES[regime])


def pack_published(output: Path, regime: str) -> None:
    """Write the archive of the runs that have published figures, which belong to no regime."""
    _pack_whole([job.folder for job in published.make_jobs()], published.ARCHIVE)


def _pack_whole(folders: list[Path], archive: str) -> None:
    if missing := [folder for folder in folders if not (folder / "metrics.json").exists()]:
        raise SystemExit(f"{len(missing)} runs are missing, the first {missing[0]}: {archive} stays as it is")
    pack(folders, HERE / archive, preset=6, patterns=TESTED)


PACKS: dict[str, Callable[[Path, str], None]] = {
    "rows": pack_rows,
    "ablations": pack_ablations,
    "published": pack_published,
}
"""What ``pack --of`` can write, from an output folder and a regime."""
