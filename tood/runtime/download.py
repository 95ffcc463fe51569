"""Files from the web: resumed where they were cut off, checked, and with their origin beside them.

`fetch` writes to `FILE.part` and renames it when the content is whole and has the expected checksum.
`FILE.origin.json` then says where it came from. The environment variable TOOD_MIRROR names an address that
holds copies of all files under the names of their hosts, as `wget --mirror` leaves them; the same checksums
are expected there.
"""

import errno
import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tood.runtime.files import write_json
from tood.runtime.locks import try_lock
from tood.runtime.progress import Progress

MIRROR = "TOOD_MIRROR"
TIMEOUT = 60.0  # seconds without a byte after which a connection counts as cut off
ATTEMPTS = 5  # in a row that bring no byte
PAUSE = 2.0  # seconds before the next attempt; doubles each time
_CHUNK = 2**20  # bytes
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DownloadError(RuntimeError):
    """A file that cannot be fetched; the message names its address or its path and gives a hint."""


class _CutOff(Exception):
    """The connection ended early; another attempt goes on from there."""


@dataclass(frozen=True)
class Source:
    """A file on the web.

    Args:
        address: URL; TOOD_MIRROR may replace its host.
        md5: checksum in hexadecimal; empty if unknown.
        sha256: checksum in hexadecimal, or its first digits; empty if unknown.
    """

    address: str
    md5: str = ""
    sha256: str = ""

    @property
    def mirrored(self) -> str:
        """Where the file is asked for."""
        mirror, parts = os.environ.get(MIRROR), urlsplit(self.address)
        return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}" if mirror else self.address

    def problem(self, md5: str, sha256: str) -> str | None:
        """What is wrong with a content of these checksums; None if it is the expected one."""
        for name, found, wanted in (("md5", md5, self.md5), ("sha256", sha256, self.sha256)):
            if not found.startswith(wanted.lower()):
                return f"its {name} is {found[: max(len(wanted), 8)]}, expected {wanted}"
        return None


def checksums(path: Path) -> tuple[str, str]:
    """md5 and sha256 of a file, in hexadecimal."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()


def digest_in_name(name: str) -> str:
    """The start of the sha256 that a file's name ends in, as in `resnet50-0676ba61.pth`; empty if in none."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    return found.group(1) if found else ""


def origin_path(path: Path) -> Path:
    """The file that says where another one came from."""
    return path.with_name(f"{path.name}.origin.json")


def require_space(folder: Path, needed: int, what: str) -> None:
    """Stop before a disk is full.

    Args:
        folder: on that disk; need not be there yet.
        needed: bytes.
        what: is named in the message.

    Raises:
        DownloadError: fewer bytes are free.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DownloadError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there; free some "
            "space or choose another folder"
        )


def fetch(source: Source, path: Path) -> None:
    """Fetch a file, unless it is there already; an earlier call that was cut off is resumed.

    Args:
        source: where it is, and its checksums.
        path: where it goes.

    Raises:
        DownloadError: the server does not give it, its content is another one, or the disk is full. What has
            arrived stays in `FILE.part`, except for a wrong content.
    """
    if path.exists():
        if problem := source.problem(*checksums(path)):
            raise DownloadError(
                f"{path}: is not the file at {source.address}: {problem}; delete it or move it away, then "
                "call again"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _alone(path):
        url = _receive(source, part)
        md5, sha256 = checksums(part)
        if problem := source.problem(md5, sha256):
            part.unlink()
            raise DownloadError(
                f"{source.address}: what arrived is not the expected file: {problem}. It was deleted; call "
                "again, and if that fails the server has another file"
            )
        size = part.stat().st_size
        with part.open("rb") as file:
            os.fsync(file.fileno())
        origin: dict[str, Any] = {"address": source.address}
        if url != source.address:  # after a redirect, or of a mirror
            origin["received_from"] = url
        origin |= {"bytes": size, "sha256": sha256, "md5": md5}
        origin["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(origin_path(path), origin)
        part.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from the same file within a block."""
    lock = try_lock(path.with_name(f".{path.name}.lock"))
    if lock is None:
        raise DownloadError(f"{path}: another process fetches it; wait until it ends, or end it")
    try:
        yield
    finally:
        lock.release()


def _receive(source: Source, part: Path) -> str:
    """Fill `part` until it is whole, over as many connections as that takes; the address of the last one."""
    failures, reason = 0, ""
    while failures < ATTEMPTS:
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))
        before = _size(part)
        try:
            return _connect(source, part)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise DownloadError(
                    f"{source.mirrored}: the server answers {error.code} {error.reason}"
                ) from None
            reason = f"the server answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except (_CutOff, OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        failures = 1 if _size(part) > before else failures + 1
    kept = f"; {part} keeps {_size(part)} bytes, and the next call goes on from there" if _size(part) else ""
    raise DownloadError(f"{source.mirrored}: {ATTEMPTS} attempts failed ({reason}){kept}")


def _connect(source: Source, part: Path) -> str:
    """One connection: append to `part` what it lacks, or write it anew where the server sends all.

    Returns:
        the address that it was received from, after redirects
    """
    done = _size(part)
    request = urllib.request.Request(source.mirrored, headers={"User-Agent": "tood"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.headers.get("Content-Range", "").endswith(f"/{done}"):
            return error.url  # it was whole already
        part.unlink()
        raise _CutOff("what had arrived is longer than the file") from None
    with response:
        sent = response.headers.get("Content-Range", "")
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT and sent.startswith(f"bytes {done}-")
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        if length is not None:
            require_space(part.parent, int(length), part.name.removesuffix(".part"))
        _write(response, part, done, None if length is None else done + int(length))
        return response.url


def _write(response: http.client.HTTPResponse, part: Path, done: int, total: int | None) -> None:
    megabytes = None if total is None else max(total // 10**6, 1)
    shown = done // 10**6
    label = f"fetch {part.name.removesuffix('.part')}"
    with Progress(label, megabytes or 1, done=shown, unit="MB") as progress, _disk(part) as file:
        file.seek(done)
        file.truncate()
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            if megabytes and (news := min(done // 10**6, megabytes) - shown):
                progress.advance(news)
                shown += news
    if total is not None and done < total:
        raise _CutOff(f"the connection ended after {done} of {total} bytes")
    print(f"{label}: {done} bytes", file=sys.stderr, flush=True)


@contextmanager
def _disk(part: Path) -> Iterator[Any]:
    """The file, opened to be written at any place; a full disk is said in words."""
    try:
        with part.open("r+b" if part.exists() else "w+b") as file:
            yield file
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise DownloadError(
            f"{part}: cannot be written ({error.strerror}); {_size(part)} bytes of it are kept. Free some "
            "space and call again, it goes on from there"
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
