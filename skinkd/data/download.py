"""The public datasets from their public addresses: resumed where a connection broke, checked before use."""

import fcntl
import hashlib
import json
import os
import shutil
import textwrap
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from skinkd.data.isic2019 import GROUND_TRUTH, METADATA
from skinkd.data.medmnist import archive_file, check_set, file_crc
from skinkd.data.medmnist_sets import SETS
from skinkd.data.table import read_csv
from skinkd.errors import UserError

HAM10000_DOI = "doi:10.7910/DVN/DBW86T"
METADATA_COLUMNS = ("lesion_id", "image_id", "dx")  # that load_ham10000 needs
HAM10000_FILES = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_metadata")
# of the challenge's own tables; its archive of images has no published checksum, only the CRCs inside it
ISIC2019_SHA256 = {
    GROUND_TRUTH: "c193a9a94c538f0043de56fa680f02b436b6c308691da3aac24c2e9cf375b6bb",
    METADATA: "5aa3bc771c5d88d18f23824e8fccb93ef98de5a00976e2a42ec1fe54ceed2990",
}
DERMNET = (
    "DermNet has terms of its own (dermnetnz.org), so fetch it yourself: the 23-class collection that the "
    "literature uses is on Kaggle as shubhamgoel27/dermnet; unpack its train/ and test/ folders into {root}"
)
_BLOCK = 1 << 20


class Connection(NamedTuple):
    """How patiently to download.

    Attributes:
        attempts: tries in a row without a byte gained before giving up.
        timeout: seconds without a byte before a try counts as failed.
        pause: seconds before the second try; doubled for each further one.
    """

    attempts: int
    timeout: float
    pause: float


class _WrongAnswerError(Exception):
    """The server's answer cannot be part of the file."""


def fetch(
    url: str,
    target: Path,
    *,
    checksum: str | None,
    connection: Connection,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Download a file, going on from ``<target>.part`` if an earlier try left one; return ``target``.

    The server's ETag is kept beside the part, so that a file which changed meanwhile begins anew. ``target``
    appears only when it is complete and right; one that is there already is checked, and kept if it is right.

    Args:
        url: address.
        target: file to write.
        checksum: "md5:<hexadecimal>" or "sha256:<hexadecimal>", or None where none is published.
        connection: how patiently.
        check: raises UserError for a file that cannot be the right one, where no checksum tells.

    Raises:
        UserError: the server refuses, or gives up, or what it sends is twice not the right file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_file():
            if not _problem(target, checksum, check):
                return target
            target.unlink()
        part = target.with_name(f"{target.name}.part")
        for _ in range(2):
            _complete(url, part, checksum, connection)
            problem = _problem(part, checksum, check)
            if not problem:
                os.replace(part, target)
                _tag(part).unlink(missing_ok=True)
                return target
            part.unlink()
            _tag(part).unlink(missing_ok=True)
    raise UserError(
        f"{url} was downloaded twice and is twice not the published file ({problem}); try again later, or "
        f"get {target.name} by hand and put it into {target.parent}"
    )


def _problem(path: Path, checksum: str | None, check: Callable[[Path], object] | None) -> str:
    """Return what a file fails, its checksum or its check, or ""."""
    if checksum is not None and _digest(path, checksum) != checksum:
        return checksum
    try:
        if check is not None:
            check(path)
    except UserError as error:
        return textwrap.shorten(str(error), 300)  # it may cite a web page that came in the file's place
    return ""


def _complete(url: str, part: Path, checksum: str | None, connection: Connection) -> None:
    """Request the rest of ``part`` until all of it is there."""
    failures, problem = 0, ""
    while failures < connection.attempts:
        before = part.stat().st_size if part.exists() else 0
        try:
            _request(url, part, connection.timeout)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left of a file of this length: all of it, or not the one we began
                if _is_whole(part, error.headers, checksum):
                    return
                part.unlink(missing_ok=True)
            elif error.code not in (408, 429) and error.code < 500:
                raise UserError(f"{url} answers {error.code} ({error.reason}); see whether it has moved") from error
            problem = f"it answers {error.code} ({error.reason})"
        except _WrongAnswerError as error:
            part.unlink(missing_ok=True)
            problem = str(error)
        except (OSError, HTTPException) as error:
            problem = str(getattr(error, "reason", "") or error) or type(error).__name__
        gained = (part.stat().st_size if part.exists() else 0) > before
        failures = 1 if gained else failures + 1
        if failures < connection.attempts:
            time.sleep(connection.pause * 2 ** (failures - 1))
    raise UserError(
        f"{url} cannot be downloaded: {problem}; check the connection and give the same command again: it goes "
        "on where it stopped"
    )


def _is_whole(part: Path, headers: Message, checksum: str | None) -> bool:
    """Whether a part that the server has no more bytes for is the whole file: killed just before it got its name."""
    if not part.exists() or headers.get("Content-Range", "").strip() != f"bytes */{part.stat().st_size}":
        return False
    if checksum is not None:
        return _digest(part, checksum) == checksum
    tag = _tag(part).read_text() if _tag(part).exists() else ""
    # a server that names no ETag here has compared ours: a changed file is sent anew, by If-Range
    return bool(tag) and headers.get("ETag", tag) == tag


def _request(url: str, part: Path, timeout: float) -> None:
    """Append to ``part`` what is missing of it; raise OSError if the connection ends early."""
    begin = part.stat().st_size if part.exists() else 0
    tag = _tag(part).read_text() if _tag(part).exists() else ""
    headers = {"User-Agent": "skinkd"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
        if tag:
            headers["If-Range"] = tag
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
        length = answer.headers.get("Content-Length")
        if answer.status == 206:
            span = answer.headers.get("Content-Range", "")
            if not span.startswith(f"bytes {begin}-"):
                raise _WrongAnswerError(f"the server sends {span or 'no range'} where bytes {begin} on were asked for")
        else:
            begin = 0
        total = begin + int(length) if length else None
        strong = answer.headers.get("ETag", "")
        _tag(part).write_text("" if strong.startswith("W/") else strong)
        with (
            part.open("ab" if begin else "wb") as file,
            tqdm(
                total=total,
                initial=begin,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                disable=None,
                leave=False,
            ) as bar,
        ):
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _digest(path: Path, like: str) -> str:
    """Return the file's checksum in the form of ``like``."""
    kind = like.partition(":")[0]
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def unzip(archive: Path, folder: Path) -> int:
    """Unpack an archive's files into ``folder``, with a progress bar; return how many there are.

    Files that are there and right (by size and CRC) are kept, so that it can be repeated. Each file's CRC is
    checked while it is unpacked, and it appears under its name only when whole.

    Raises:
        UserError: the archive is damaged, or would write outside ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = folder.resolve()
    try:
        with zipfile.ZipFile(archive) as file:
            members = [one for one in file.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
            for member in tqdm(members, desc=f"unpacking {archive.name}", unit="file", disable=None, leave=False):
                target = (home / member.filename).resolve()
                if not target.is_relative_to(home):
                    raise UserError(f"{archive} wants to write {member.filename} outside {folder}; it is not safe")
                size = target.stat().st_size if target.is_file() else -1
                if size == member.file_size and file_crc(target) == member.CRC:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.{os.getpid()}")
                try:
                    with file.open(member) as source, temporary.open("wb") as out:
                        shutil.copyfileobj(source, out, _BLOCK)
                    os.replace(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is damaged ({error}); remove it and give the same command again") from error
    return len(members)


def download_ham10000(root: Path, *, address: str, connection: Connection, say: Callable[[str], None]) -> None:
    """Fetch HAM10000 from a Dataverse: its listing names the files and their MD5 sums; unpack the images."""
    listing = root / ".dataverse.json"
    listing.unlink(missing_ok=True)
    fetch(
        f"{address}/api/datasets/:persistentId/?persistentId={HAM10000_DOI}",
        listing,
        checksum=None,
        connection=connection,
    )
    try:
        entries = json.loads(listing.read_text())["data"]["latestVersion"]["files"]
        files: dict[str, Mapping[str, Any]] = {Path(entry["label"]).stem: entry["dataFile"] for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{address} does not list the files of {HAM10000_DOI} as a Dataverse does") from error
    finally:
        listing.unlink(missing_ok=True)
    absent = [name for name in HAM10000_FILES if name not in files]
    if absent:
        raise UserError(f"{address} lists no {', '.join(absent)} for {HAM10000_DOI}; has it been renamed?")
    for name in HAM10000_FILES:
        record = files[name]
        url = f"{address}/api/access/datafile/{record['id']}"
        if name == "HAM10000_metadata":
            # a Dataverse turns a table into its own format; its checksum need not be the original file's
            original = record.get("originalFileFormat")
            fetch(
                f"{url}?format=original" if original else url,
                root / "HAM10000_metadata.csv",
                checksum=None if original else _md5(record),
                connection=connection,
                check=lambda path: read_csv(path, required=METADATA_COLUMNS),
            )
        else:
            archive = fetch(url, root / f"{name}.zip", checksum=_md5(record), connection=connection)
            say(f"{name}: {unzip(archive, root / name)} files")


def _md5(record: Mapping[str, Any]) -> str | None:
    return f"md5:{record['md5']}" if record.get("md5") else None


def download_isic2019(root: Path, *, address: str, connection: Connection, say: Callable[[str], None]) -> None:
    """Fetch ISIC 2019's two tables, by SHA-256, and its 9 GB of training images, by the archive's CRCs."""
    for name, sha256 in ISIC2019_SHA256.items():
        fetch(f"{address}/{name}", root / name, checksum=f"sha256:{sha256}", connection=connection)
    name = "ISIC_2019_Training_Input"
    archive = fetch(f"{address}/{name}.zip", root / f"{name}.zip", checksum=None, connection=connection)
    say(f"{name}: {unzip(archive, root)} files")


def download_medmnist(
    root: Path, *, flag: str, size: int, address: str, connection: Connection, say: Callable[[str], None]
) -> None:
    """Fetch one file of MedMNIST, by the MD5 that its authors publish; one that cannot be used is refused before."""
    check_set(flag, size)
    target = archive_file(root, flag, size)
    fetch(
        f"{address}/{target.name}",
        target,
        checksum=f"md5:{SETS[flag].md5[size]}",
        connection=connection,
    )
    say(f"{target}: its MD5 is the published one")
