"""How fast skinkd is on this machine: ``python -m benchmarks.bench [--sections methods,loader] [--seconds 840]``.

``make bench BENCH="…"`` gives the same arguments. Each section prints a table, and all of them go to bench.json and bench.md
in the folder of ``--out``. Images are HAM10000's where ``SKINKD_DATA_DIR`` has them, else drawn. Steps that are compared
take turns in one process; figures are medians after a warm-up. Sections share the seconds, and rows for which they do not
suffice are named. docs/performance.md explains each figure.
"""

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .checkouts import kind_of
from .machine import describe, sentence
from .networks import data_words
from .sections import SECTIONS, chosen
from .sections.in_memory import as_in_runs
from .session import Bench, run_sections
from .table import markdown, terminal
from .timing import CLOCKS, Timer

BEGAN = time.monotonic() - time.process_time()  # before the imports


def arguments_of(words: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; a wrong one ends the command with a sentence."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sections", help=f"of {', '.join(SECTIONS)}; default: all that suit the device")
    parser.add_argument("--seconds", type=float, default=860, help="the whole command ends within about these")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a machine with other work")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: as many as it takes by itself")
    parser.add_argument("--override", nargs="+", default=[], help="settings of every run, e.g. precision=bf16")
    parser.add_argument("--against", type=Path, action="append", default=[], help="a checkout of published code; twice")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of bench.json and bench.md")
    parser.add_argument("--quick", action="store_true", help="a dry run of every section, as small as possible")
    given = parser.parse_args(words)
    given.sections = given.sections.split(",") if given.sections else chosen(given.device, bool(given.against))
    unknown = [name for name in given.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"--sections has {unknown[0]}, which is none of {', '.join(SECTIONS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device; leave --device out")
    if "published" in given.sections and not given.against:
        parser.error("--sections published needs --against <checkout>")
    for checkout in given.against:
        try:
            kind_of(checkout)
        except ValueError as error:
            parser.error(str(error))
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    given = arguments_of(words)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    as_in_runs()
    data = Path(os.environ.get("SKINKD_DATA_DIR", "data"))
    machine = describe(device, clock=given.clock)
    machine["images"] = "HAM10000" if (data / "ham10000").is_dir() and not given.quick else "drawn"
    machine["overrides"] = given.override
    scratch = Path(tempfile.mkdtemp(prefix="skinkd-bench-"))
    bench = Bench(
        timer=Timer(device, clock=given.clock, quick=given.quick),
        until=BEGAN + given.seconds - 10,  # a row may take 10 s more
        scratch=scratch,
        overrides=given.override,
        data=data_words(data, scratch, quick=given.quick),
        against=given.against,
    )
    found: dict[str, Any] = {"machine": machine, "sections": {}}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)

    def after(name: str, rows: list[dict[str, Any]]) -> None:
        section = SECTIONS[name]
        found["sections"][name] = {"title": section.title, "rows": rows}
        print(f"\n{name}: {section.title}\n\n{terminal(rows, section.columns)}", flush=True)
        write(given.out, found)

    code = 1
    try:
        code = 0 if run_sections(bench, {name: SECTIONS[name] for name in given.sections}, after) else 1
    except BaseException:  # a signal too: what there is has been written
        traceback.print_exc()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"\n{given.out / 'bench.json'}\n{given.out / 'bench.md'}", flush=True)
    return code


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write bench.json and bench.md, complete or not at all."""
    parts = [sentence(found["machine"])]
    for name, section in found["sections"].items():
        known = SECTIONS[name]
        parts.append(f"#### {known.title}\n\n{known.explains}\n\n{markdown(section['rows'], known.columns)}")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("bench.json", json.dumps(found, indent=1)), ("bench.md", "\n\n".join(parts))):
        new = folder / f".{file}.new"
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(folder / file)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with the rows that there are
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # without the wait, of minutes at times, for the processes that torch.compile has started
