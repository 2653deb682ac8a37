"""Downloads that resume where a connection broke; files are checked before they are used."""

import os
import shutil
import textwrap
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from skinkd.data.hashing import file_checksum, file_crc
from skinkd.data.source import TABLE_BYTES, File, Settings, Source
from skinkd.errors import UserError
from skinkd.runs.files import Lock, written_atomically

_BLOCK = 1 << 20
MOST_OF_AN_ARCHIVE = 50
"""Times an archive's size that its files may have together. Images hardly shrink, text shrinks tenfold, a bomb thousandfold."""


class Connection(NamedTuple):
    """How patiently to download.

    Attributes:
        attempts: number of successive attempts without a new byte after which to give up.
        timeout: seconds without a byte after which an attempt has failed.
        pause: seconds before the second attempt; doubled for each further attempt.
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
    most_bytes: int = File.most_bytes,
) -> Path:
    """Download a file and return ``target``; an earlier attempt's ``<target>.part`` is continued.

    The server's ETag is kept next to the part: if the file has changed on the server, the download starts again.
    ``target`` appears only when it is complete and right. If it exists already, it is checked, and kept if it is right.

    Args:
        url: address.
        target: file to write.
        checksum: "md5:<hexadecimal>" or "sha256:<hexadecimal>"; None: none is published.
        connection: how patiently.
        check: raises UserError for a wrong file, where there is no checksum.
        most_bytes: the server may not send more; the disk would fill.

    Raises:
        UserError: the server refuses, sends more than it may, the connection fails too often, or two downloads gave a wrong
            file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with Lock(target.with_name(f".{target.name}.lock")):
        if target.is_file():
            if not _problem(target, checksum, check):
                return target
            target.unlink()
        part = target.with_name(f"{target.name}.part")
        for _ in range(2):
            _complete(url, part, checksum, connection, most_bytes)
            problem = _problem(part, checksum, check)
            if not problem:
                os.replace(part, target)
                _tag(part).unlink(missing_ok=True)
                return target
            part.unlink()
            _tag(part).unlink(missing_ok=True)
    raise UserError(
        f"{url} was downloaded twice, and neither copy is the published file ({problem}); try again later, or "
        f"get {target.name} by hand and put it into {target.parent}"
    )


def _problem(path: Path, checksum: str | None, check: Callable[[Path], object] | None) -> str:
    """Return the checksum that a file does not have, or what its check says; "" for a right file."""
    if checksum is not None and file_checksum(path, checksum) != checksum:
        return checksum
    try:
        if check is not None:
            check(path)
    except UserError as error:
        return textwrap.shorten(str(error), 300)  # it may quote a web page that was sent instead of the file
    return ""


def _complete(url: str, part: Path, checksum: str | None, connection: Connection, most_bytes: int) -> None:
    """Request the rest of ``part`` until all of it is there."""
    failures, problem = 0, ""
    while failures < connection.attempts:
        before = part.stat().st_size if part.exists() else 0
        try:
            _request(url, part, connection.timeout, most_bytes)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the server has no more bytes: the part is whole, or the file has changed
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
        f"{url} cannot be downloaded: {problem}; check the connection and give the same command again: it goes on "
        "where it stopped"
    )


def _is_whole(part: Path, headers: Message, checksum: str | None) -> bool:
    """Whether a part is the whole file: its process was killed just before renaming it. The server has no more bytes."""
    if not part.exists() or headers.get("Content-Range", "").strip() != f"bytes */{part.stat().st_size}":
        return False
    if checksum is not None:
        return file_checksum(part, checksum) == checksum
    tag = _tag(part).read_text() if _tag(part).exists() else ""
    # If-Range made the server compare the ETag: it would have sent a changed file from its start
    return bool(tag) and headers.get("ETag", tag) == tag


def _request(url: str, part: Path, timeout: float, most_bytes: int) -> None:
    """Append the missing bytes to ``part``; raise OSError if the connection ends early, UserError if there are too many."""
    begin = part.stat().st_size if part.exists() else 0
    tag = _tag(part).read_text() if _tag(part).exists() else ""
    headers = {"User-Agent": "skinkd"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
        if tag:
            headers["If-Range"] = tag
    with _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
        length = answer.headers.get("Content-Length")
        if answer.status == 206:
            span = answer.headers.get("Content-Range", "")
            if not span.startswith(f"bytes {begin}-"):
                raise _WrongAnswerError(f"the server sends {span or 'no range'} instead of the bytes from {begin} on")
        else:
            begin = 0
        total = begin + int(length) if length else None
        _check_bytes(url, part, total or begin, most_bytes)
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
                begin += len(block)
                _check_bytes(url, part, begin, most_bytes)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _check_bytes(url: str, part: Path, count: int, most_bytes: int) -> None:
    """Refuse more bytes than the file may have, and remove what has come."""
    if count > most_bytes:
        part.unlink(missing_ok=True)
        _tag(part).unlink(missing_ok=True)
        raise UserError(
            f"{url} sends {count} bytes or more, and the file has at most {most_bytes}; see whether it has moved"
        )


class _StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows no redirect from https to anything else, where somebody on the way could change the file."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.lower().startswith("https:") and not newurl.lower().startswith("https:"):
            raise UserError(f"{req.full_url} redirects to {newurl}, which is not encrypted; get the file by hand")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_StaysEncrypted)


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def unzip(archive: Path, folder: Path) -> int:
    """Unpack an archive's files into ``folder``, with a progress bar; return how many there are.

    Files that exist and are right, by size and CRC, are kept. Each file's CRC is checked while it is unpacked, and
    the file gets its name only when it is whole.

    Raises:
        UserError: the archive is damaged, would write outside ``folder``, or is far larger than its file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = folder.resolve()
    try:
        with zipfile.ZipFile(archive) as file:
            members = [one for one in file.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
            total, most = sum(member.file_size for member in members), MOST_OF_AN_ARCHIVE * archive.stat().st_size
            if total > most:
                raise UserError(
                    f"{archive} is not safe: it would unpack to {total} bytes, more than {MOST_OF_AN_ARCHIVE} times its size; "
                    "remove it"
                )
            for member in tqdm(members, desc=f"unpacking {archive.name}", unit="file", disable=None, leave=False):
                target = (home / member.filename).resolve()
                if not target.is_relative_to(home):
                    raise UserError(
                        f"{archive} is not safe: it would write {member.filename} outside {folder}; remove it"
                    )
                size = target.stat().st_size if target.is_file() else -1
                if size == member.file_size and file_crc(target) == member.CRC:
                    continue
                with (
                    written_atomically(target, sync=False) as temporary,
                    file.open(member) as source,
                    temporary.open("wb") as out,
                ):
                    shutil.copyfileobj(source, out, _BLOCK)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is damaged ({error}); remove it and give the same command again") from error
    return len(members)


def download(
    source: Source,
    table: Settings,
    root: Path,
    *,
    address: str,
    connection: Connection,
    say: Callable[[str], None],
) -> None:
    """Fetch a dataset's files into ``root`` and unpack the archives among them.

    Args:
        source: the dataset's ``SOURCE``, with ``files`` or ``listing``.
        table: ``data.table``.
        root: the dataset's folder.
        address: where the files lie, such as ``source.address`` or a mirror.
        connection: how patiently.
        say: told what was unpacked, or that a file is the published one.

    Raises:
        UserError: as :func:`fetch` and :func:`unzip`.
    """

    def get(url: str) -> bytes:
        file = root / ".listing"
        file.unlink(missing_ok=True)  # an earlier answer may be out of date
        try:
            url = f"{address}/{url}"
            return fetch(url, file, checksum=None, connection=connection, most_bytes=TABLE_BYTES).read_bytes()
        finally:
            file.unlink(missing_ok=True)

    files = source.listing(get) if source.listing else source.files(table) if source.files else ()
    for file in files:
        target = fetch(
            f"{address}/{file.url or file.name}",
            root / file.name,
            checksum=file.checksum,
            connection=connection,
            check=file.check,
            most_bytes=file.most_bytes,
        )
        if file.unpack is not None:
            say(f"{target.stem}: {unzip(target, root / file.unpack)} files")
        elif len(files) == 1 and file.checksum:
            say(f"{target}: its {file.checksum.partition(':')[0].upper()} is the published one")
