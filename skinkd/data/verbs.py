"""What ``python -m skinkd.data`` does: a function for each verb, which takes the resolved configuration."""

import json
import shlex
import sys
from pathlib import Path

from skinkd.build.construct import build
from skinkd.build.tables import Config, load_images, load_table, split_images
from skinkd.config.command_line import config_dir
from skinkd.config.targets import allowed_words, check_targets
from skinkd.data.audit import audit_sentence, audit_split
from skinkd.data.cache import prepare as prepare_cache
from skinkd.data.download import Connection
from skinkd.data.download import download as fetch_dataset
from skinkd.data.sheets import augment_sheet, class_table, contact_sheet, page, png, table_picture, write
from skinkd.data.source import source_of
from skinkd.data.splits import measure_leak, shared_between
from skinkd.data.table import read_csv, split_column
from skinkd.data.transforms import train_pipeline
from skinkd.data.verify import published_problems
from skinkd.data.verify import verify as verify_table
from skinkd.errors import UserError
from skinkd.runs.cells import harmless_table, original_table


def verify(config: Config) -> None:
    """Print the faults of the files; exit code 1 if there are any."""
    table_settings = config["data"]["table"]
    if "on_bad_image" in table_settings:
        table_settings["on_bad_image"] = "keep"
    try:
        verdict = verify_table(load_table(config), source=source_of(table_settings))
        problems, facts = verdict.problems + published_problems(table_settings), verdict.facts
    except Exception as error:
        cause = error if isinstance(error, UserError) else error.__cause__
        if not isinstance(cause, UserError):
            raise
        problems, facts = [str(cause)], []
    for line in (*facts, *(f"problem: {problem}" for problem in problems)):
        print(line)
    print(f"{len(problems)} problems")
    if problems:
        raise SystemExit(1)


def split(config: Config) -> None:
    """Write splits.csv and splits_report.json, and print the class table."""
    table = load_images(config)
    parts = split_images(config, table)
    report = audit_split(
        table,
        parts,
        measure_leak(table.frame, parts),
        near_duplicate_bits=config["data"]["near_duplicate_bits"],
        memory=Path(config["paths"]["cache_dir"]),
    )
    own = table.frame[["image_id", "group"]].assign(split=parts)
    if config["against"]:
        file = Path(str(config["against"]))
        other = original_table(read_csv(file, required=("image_id", "split")))
        other["split"] = split_column(other["split"], file)
        report["against"] = {"file": str(config["against"]), **shared_between(own, other)}
    out = Path(config["out"])
    write(out / "splits.csv", harmless_table(own).to_csv(index=False).encode())
    write(out / "splits_report.json", (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    print(class_table(table, parts).to_string(index=False, float_format=lambda value: f"{value:.1%}"))
    print(audit_sentence(report))
    if config["against"]:
        print(f"against {config['against']}: " + json.dumps(report["against"]["images"]))
    print(out)


def prepare(config: Config) -> None:
    """Decode and shrink the images into the cache that data.cache=disk and data.cache=ram read."""
    folder = Path(config["paths"]["cache_dir"])
    cache = prepare_cache(load_table(config), size=config["data"]["cache_size"], folder=folder)
    print(f"{cache}: {(cache / 'pixels.bin').stat().st_size / 1e6:,.0f} MB; train with data.cache=disk or ram")


def describe(config: Config) -> None:
    """Write contact_sheet.png, classes.png and description.html, even if the images cannot be split."""
    sheet = config["sheet"]
    table = load_images(config)
    try:
        parts = split_images(config, table)
    except UserError as error:
        print(f"not split: {error}")
        parts = None
    rows = class_table(table, parts)
    picture = png(contact_sheet(table, each=sheet["images_of_class"], inches=sheet["inches"], seed=config["seed"]))
    out = Path(config["out"])
    write(out / "contact_sheet.png", picture)
    write(out / "classes.png", png(table_picture(rows)))
    print(write(out / "description.html", page(table.name, rows, picture).encode()))


def augment(config: Config) -> None:
    """Write augment.png: images next to augmented copies."""
    size, sheet = config["data"]["image_size"], config["sheet"]
    transforms = build(config["augment"]["train"], place="augment.train")
    figure = augment_sheet(
        load_table(config),
        train_pipeline(transforms, image_size=size),
        images=sheet["images"],
        copies=sheet["copies"],
        inches=sheet["inches"],
        seed=config["seed"],
    )
    print(write(Path(config["out"]) / "augment.png", png(figure)))


def download(config: Config) -> None:
    """Fetch the dataset into data.root, or say how to get it."""
    data, settings = config["data"], config["download"]
    check_targets(data["table"], place="data.table")  # of a loader that is refused no SOURCE is found
    source = source_of(data["table"])
    # the file in conf/data/; data.name is the user's, and MedMNIST's is the set's
    given = [word.removeprefix("data=") for word in sys.argv[1:] if word.startswith("data=")]
    choice = given[-1] if given else data["table"]["_target_"].rpartition(".load_")[2]
    if source is None or not (source.files or source.listing or source.by_hand):
        raise UserError(
            f"data={choice or data['name']} is not downloaded, as its loader has no SOURCE that says where the files are; "
            f"choose a public dataset, or write SOURCE into the module of {data['table']['_target_']}"
        )
    if not data["root"]:
        raise UserError(f"data.root={data['root']} is no folder to download into; give data.root=<folder>")
    root = Path(data["root"]).expanduser().absolute()
    if source.by_hand:
        print(source.by_hand.format(root=root))
        return
    try:
        fetch_dataset(
            source,
            data["table"],
            root,
            address=settings["address"] or source.address,
            connection=Connection(settings["attempts"], settings["timeout"], settings["pause"]),
            say=print,
        )
    except PermissionError as error:
        raise UserError(
            f"{error.filename} cannot be written; point SKINKD_DATA_DIR or paths.data_dir at a folder you own"
        ) from error
    further = config_dir(sys.argv[1:])  # of a package of the user's own, which verify has to find and to allow too
    words = [f"--config-dir={further}"] * (further is not None) + allowed_words()
    words += [f"data={choice}", *(f"data.{key}={data[key]}" for key in source.chosen_by)]
    print(f"{root}; check it with python -m skinkd.data verify {shlex.join(words)}")
