"""Kills training runs at random moments, lets them go on, and compares their files with those of a run left alone.

python benchmarks/kill_campaign.py --kills 100 --method kd          # kill until 100 kills of kd are done
python benchmarks/kill_campaign.py --out DIR --table                # print the table of all kills so far, in Markdown

Each run is killed again and again until it reaches its end or has been killed eight times; then it is left alone to the end.
Each moment is drawn uniformly from the first half of the length of a whole run, which follows the load of the machine: a run
goes on from its last checkpoint, so that the kills reach every part of it, and few runs end before their moment. Most kills are
SIGKILL, the rest SIGTERM and Ctrl-C. The files that must be equal byte for byte: metrics.json and the predictions; of
history.csv all but the two columns of times; of best.ckpt every weight. Results are appended to DIR/kills.jsonl, and the same
command goes on from there.

The runs are forked from this process, which has imported everything, and so start in milliseconds. They are tiny: 120
synthetic images of 32 px, a network of 0.1 million parameters, 3 epochs of 10 steps, a checkpoint every half second.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork would not have the threads of this process

import torch
from hydra import compose, initialize_config_module

import skinkd.training.run
import skinkd.training.scores
from skinkd.config.identity import run_path
from skinkd.config.resolve import resolved
from skinkd.config.user_errors import user_errors
from skinkd.data.synthetic import generate
from skinkd.runs.files import Lock
from skinkd.train import train

METHODS = ("supervised", "swskd", "tsskd", "kd", "ssdkd", "mskd")
WITH_A_MEMORY = ("ps_kd", "crd", "dlb")  # of earlier batches or of each image; only killed if --method names them
MOST_KILLS = 8  # of one run
SIGNALS = {signal.SIGKILL: 0.8, signal.SIGTERM: 0.15, signal.SIGINT: 0.05}
IMAGES, HEIGHT, WIDTH = 120, 32, 40
TIMES = ("seconds", "images_per_second")
TINY = ["backbone=timm", "backbone.name=test_resnet.r160_in1k", "backbone.small_input=true"]
TINY_TEACHER = [
    "method.teacher.run.backbone.name=test_resnet.r160_in1k",
    "method.teacher.run.backbone.small_input=true",
]
NETWORKS = {
    "kd": [*TINY, *TINY_TEACHER],
    "ssdkd": [*TINY, *TINY_TEACHER],
    "crd": [*TINY, *TINY_TEACHER],
    "mskd": [
        *("backbone=mskd_student", "backbone.conv_branch=test_efficientnet.r160_in1k"),
        *("backbone.cnn_widths=[4,8]", "backbone.fusion_width=8", "method.teacher.run.backbone.fusion_width=8"),
        "method.teacher.run.backbone.small_vit={patch_size:8,depth:2,embed_dim:16,num_heads:2,mlp_ratio:2,class_token:false,"
        "global_pool:avg}",
        "method.teacher.run.backbone.convmixer={patch_size:4,depth:2,dim:16,kernel_size:3}",
    ],
}
FURTHER = {
    # each method with something that has a state: dropout, a moving average, a plateau schedule, mixed batches, warm-up
    "supervised": ["backbone.drop_rate=0.2", "ema.decay=0.9", "augment.mix=mixup", "augment.mix_alpha=0.4"],
    "swskd": ["backbone.drop_rate=0.2", "optim=sgd_plateau", "early_stopping.patience=9"],
    "tsskd": ["method.warmup_epochs=2", "sampler=balanced", "ema.decay=0.5"],
    "kd": ["trainer.accumulate_grad_batches=2"],
    "ssdkd": [],
    "mskd": [],
    "ps_kd": ["backbone.drop_rate=0.2"],
    "crd": ["method.negatives=16", "ema.decay=0.9"],
    "dlb": ["sampler=balanced"],
}


def main() -> None:
    """Run the campaign, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, default=100, help="of each method and number of workers, all calls together"
    )
    parser.add_argument("--method", nargs="+", default=METHODS, choices=[*METHODS, *WITH_A_MEMORY])
    parser.add_argument("--workers", nargs="+", type=int, default=(0, 2), help="loading processes")
    parser.add_argument("--out", type=Path, default=Path("outputs/kill_campaign"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--table", action="store_true", help="print the table, and kill nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # half the time of a tiny run, and not compared
    skinkd.training.scores.plot_curves = skinkd.training.scores.plot_confusion = lambda *_, **__: None
    skinkd.training.run.describe_environment = lambda: ""
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for method in options.method:
            for workers in options.workers:
                # another campaign would use the same folder
                with Lock(options.out / f".{method}-{workers}.lock"):
                    campaign(options.out.resolve(), method, workers, options.kills, options.seed)
    print("\n".join(table(results(options.out))))
    sys.exit(any(not result["same"] for result in results(options.out)))


def campaign(out: Path, method: str, workers: int, kills: int, seed: int) -> None:
    """Kill runs of a method until there have been ``kills`` kills, and append what came of each run."""
    data = out / "data"
    if not data.exists():
        generate(data, images=IMAGES, image_size=(HEIGHT, WIDTH), seed=0)
    # with any number of workers, since workers change no number
    words = overrides(method, 0, data, out / f"{method}-whole")
    whole = folder_of(words)
    if not (whole / "metrics.json").exists():
        code = wait(start(settings_of(words), out / f"{method}-whole.log"))
        assert code == 0, (out / f"{method}-whole.log").read_text()
    length = _length(whole)
    while True:
        before = [one for one in results(out) if (one["method"], one["workers"]) == (method, workers)]
        if sum(len(one["kills"]) for one in before) >= kills:
            return
        result = one_run(out, method, workers, whole, length, random.Random(f"{seed}-{method}-{workers}-{len(before)}"))
        with (out / "kills.jsonl").open("a") as file:
            file.write(json.dumps({"method": method, "workers": workers} | result) + "\n")
        # the machine may have become faster, so that runs end before their moments, or slower, so that they hardly begin
        length *= 1.1 if len(result["kills"]) == MOST_KILLS else 0.75
        print(f"{method}, {workers} workers: {len(result['kills'])} kills, {result['why'] or 'same'}", flush=True)


def one_run(out: Path, method: str, workers: int, whole: Path, length: float, draws: random.Random) -> dict[str, Any]:
    """Kill one run several times, let it end, and compare it with the run that was left alone."""
    output = out / f"{method}-{workers}"
    shutil.rmtree(output, ignore_errors=True)
    for teacher in whole.parent.iterdir():  # trained once, by the run that was left alone
        if teacher.is_dir() and teacher != whole and (teacher / "metrics.json").exists():
            shutil.copytree(teacher, output / teacher.name)
    words = overrides(method, workers, out / "data", output)
    settings = settings_of(words)  # composed once for all starts: half a second of each
    log, folder = out / f"{method}-{workers}.log", run_path(resolved(deepcopy(settings)))
    log.unlink(missing_ok=True)
    killed: list[dict[str, Any]] = []
    code = None
    while code != 0 and len(killed) < MOST_KILLS:
        process = start(settings, log)
        moment = draws.uniform(0, length / 2)
        number = draws.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        code = wait(process, moment)
        if code is None:
            with suppress(ProcessLookupError):
                os.kill(process, number)
            code = wait(process)
            if code != 0:  # it may have ended just before
                place = {"after": round(moment, 3), "code": code, "inside_epoch": inside_epoch(folder)}
                killed.append({"signal": number.name} | place)
                continue
        if code != 0:
            break
    if code != 0 and len(killed) == MOST_KILLS:
        code = wait(start(settings, log))
    why = f"ended with exit code {code}" if code else difference(folder, whole)
    if why:
        shutil.copytree(folder, out / "differs" / f"{method}-{workers}-{time.time():.0f}", dirs_exist_ok=True)
        shutil.copy(log, out / "differs")
    return {"kills": killed, "same": not why, "why": why}


def overrides(method: str, workers: int, data: Path, output: Path) -> list[str]:
    """Return the command line of a run."""
    return [
        f"method={method}",
        *["data=synthetic", f"data.root={data}", f"data.table.images={IMAGES}", f"data.table.height={HEIGHT}"],
        *[f"data.table.width={WIDTH}", "data.image_size=32", "data.batch_size=8", f"data.num_workers={workers}"],
        *[*NETWORKS.get(method, TINY), "backbone.pretrained=false", f"paths.output_dir={output}"],
        *["trainer.max_epochs=3", "trainer.enable_progress_bar=false", "checkpoint.every_minutes=0.008"],
        *[
            "evaluation.bootstrap_replicates=20",
            f"paths.cache_dir={data.parent / 'cache'}",
            "strategy=cpu",
            "logger=none",
        ],
        *FURTHER[method],
    ]


def settings_of(words: list[str]) -> Any:
    """Return the configuration that a command line composes."""
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        return compose("train", overrides=words)


def folder_of(words: list[str]) -> Path:
    """Return the run folder of a command line."""
    return run_path(resolved(settings_of(words)))


def inside_epoch(folder: Path) -> bool:
    """Return whether a killed run goes on from the middle of an epoch."""
    path = folder / "checkpoints" / "last.ckpt"
    if not path.exists() or (folder / "metrics.json").exists():
        return False
    progress = torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return not progress["is_last_batch"]


def start(settings: Any, log: Path) -> int:
    """Fork a process that trains; return its number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # this process may run in the background
        with user_errors():
            train(settings)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(process: int, seconds: float | None = None) -> int | None:
    """Return the exit code of a process, negative for a signal; None if it still runs after ``seconds``."""
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, 0 if until is None else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            return None
        time.sleep(0.002)


def difference(folder: Path, whole: Path) -> str:
    """Return the first difference between two finished runs; empty if there is none."""
    for name in ("metrics.json", "predictions/val.csv", "predictions/test.csv"):
        if (folder / name).read_bytes() != (whole / name).read_bytes():
            return f"{name} differs"
    if _history(folder) != _history(whole):
        return "history.csv differs"
    ours, theirs = (_weights(each / "checkpoints" / "best.ckpt") for each in (folder, whole))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        return "best.ckpt differs"
    left = [path.name for path in folder.rglob(".*.tmp*")]
    return f"{left[0]} was left" if left else ""


def _history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def _length(folder: Path) -> float:
    """Return about how many seconds a run takes: its epochs, and half as much before and after them."""
    with (folder / "history.csv").open(newline="") as file:
        return 1.5 * sum(float(row["seconds"]) for row in csv.DictReader(file))


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def results(out: Path) -> list[dict[str, Any]]:
    """Return what came of each run so far."""
    path = out / "kills.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(found: Iterable[dict[str, Any]]) -> list[str]:
    """Return the lines of the table in Markdown: a row for each method and number of workers."""
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for result in found:
        rows.setdefault((result["method"], result["workers"]), []).append(result)
    lines = [
        "| method | workers | kills | SIGKILL | SIGTERM | Ctrl-C | inside an epoch | runs | runs with equal bytes |",
        "|" + " --- |" * 9,
    ]
    for method, workers in sorted(rows, key=lambda row: ([*METHODS, *WITH_A_MEMORY].index(row[0]), row[1])):
        runs = rows[method, workers]
        kills = [kill for run in runs for kill in run["kills"]]
        kinds = [kill["signal"] for kill in kills]
        counts = [kinds.count(name) for name in ("SIGKILL", "SIGTERM", "SIGINT")]
        counts.append(sum(kill["inside_epoch"] for kill in kills))
        equal = sum(run["same"] for run in runs)
        lines.append(
            f"| {method} | {workers} | {len(kinds)} | {' | '.join(map(str, counts))} | {len(runs)} | {equal} |"
        )
    return lines


if __name__ == "__main__":
    main()
