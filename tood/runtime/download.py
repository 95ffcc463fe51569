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
        if not (mirror := os.environ.get(MIRROR)):
            return self.address
        parts = urlsplit(self.address)
        return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"

    def problem(self, md5: str, sha256: str) -> str | None:
        """What is wrong with a content of these checksums; None if it is the expected one."""
        for name, own, wanted in (("md5", md5, self.md5), ("sha256", sha256, self.sha256)):
            if not own.startswith(wanted.lower()):
                return f"its {name} is {own[: max(len(wanted), 8)]}, expected {wanted}"
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
    match = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    return match.group(1) if match else ""


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
        DownloadError: the server does not give it, its content is another one or of unknown length, or it
            cannot be written. What has arrived stays in `FILE.part`, except for a wrong content.
    """
    if path.exists():
        if problem := source.problem(*checksums(path)):
            raise DownloadError(
                f"{path}: is not the file at {source.address}: {problem}; delete it or move it away, then "
                "call again"
            )
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"{path.parent}: cannot be made ({error.strerror}); choose another folder"
        ) from error
    part = path.with_name(f"{path.name}.part")
    if part.is_symlink() or (part.exists() and not part.is_file()):
        raise DownloadError(f"{part}: is no plain file, to which a download could be written; remove it")
    with _alone(path):
        if path.exists():  # another process had the lock until now
            return
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
    try:
        lock = try_lock(path.with_name(f".{path.name}.lock"))
    except OSError as error:
        raise DownloadError(
            f"{path.parent}: nothing can be written there ({error.strerror}); make it writable, or choose "
            "another folder"
        ) from error
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
        except ValueError as error:  # an address that urllib cannot read
            raise DownloadError(f"{source.address}: no address of a file on the web ({error})") from None
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
    _require_web(source.mirrored)
    done = _size(part)
    request = urllib.request.Request(source.mirrored, headers={"User-Agent": "tood"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        response = _OPENER.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.headers.get("Content-Range", "").strip().endswith(f"/{done}"):
            return error.url  # it was whole already
        part.unlink()
        raise _CutOff("what had arrived is longer than the file") from None
    with response:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            total = _resumed(response.headers.get("Content-Range", ""), done)
            if total is None:
                part.unlink(missing_ok=True)
                raise _CutOff("the server sent another part of the file than the one that was asked for")
        else:
            done, total = 0, _length(response.headers.get("Content-Length"))
        # Where the body comes in chunks, its end is marked.
        unbounded = total is None and not response.chunked
        if unbounded and not (source.md5 or source.sha256):
            raise DownloadError(
                f"{source.mirrored}: the server does not say how long the file is, and no checksum is known, "
                "so nothing would tell whether it is whole; fetch it by hand"
            )
        if total is not None:
            require_space(part.parent, total - done, part.name.removesuffix(".part"))
        _write(response, part, done, total)
        if unbounded and source.problem(*checksums(part)):
            raise _CutOff("the connection ended early; the server does not say how long the file is")
        return response.url


def _require_web(address: str) -> None:
    """Raises DownloadError for anything but HTTP, such as a redirect to a file of this machine."""
    try:
        scheme = urlsplit(address).scheme
    except ValueError:
        scheme = ""
    if scheme not in ("http", "https"):
        raise DownloadError(f"{address}: only addresses with http and https are fetched")


class _WebAlone(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web, and to nothing else."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        _require_web(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_WebAlone)


def _length(sent: str | None) -> int | None:
    """Bytes of a body by its Content-Length; None where the server says none, or nothing that is a number."""
    return int(sent) if sent is not None and re.fullmatch(r"\s*[0-9]{1,18}\s*", sent) else None


def _resumed(sent: str, done: int) -> int | None:
    """Bytes of the whole file by the Content-Range of a part; None if that is not the rest of the file."""
    match = re.fullmatch(r"\s*bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\s*", sent)
    if match is None:
        return None
    first, end = int(match[1]), int(match[2]) + 1
    return end if first == done and match[3] in ("*", str(end)) else None


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
    if total is not None and done != total:
        if done > total:
            part.unlink()
        raise _CutOff(f"the connection ended after {done} of {total} bytes")
    print(f"{label}: {done} bytes", file=sys.stderr, flush=True)


@contextmanager
def _disk(part: Path) -> Iterator[Any]:
    """The file, opened to be written at any place; a full disk is said in words."""
    try:
        opened = part.open("r+b" if part.exists() else "w+b")
    except OSError as error:
        if error.errno in _DISK_FULL:
            hint = "free some space and call again"
        else:
            hint = "make it writable, or choose another folder"
        raise DownloadError(f"{part}: cannot be written ({error.strerror}); {hint}") from error
    try:
        with opened as file:
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
