"""Files from the web: resumed where they were cut off, checked, and with their origin beside them.

`fetch` writes to `FILE.part` and renames it when the content is whole and has the expected checksum.
`FILE.origin.json` then says where it came from. The environment variable TOOD_MIRROR names an address that
holds copies of all files under the names of their hosts, as `wget --mirror` leaves them; the same checksums
are expected there.
"""

import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tood.runtime.files import write_json
from tood.runtime.locks import try_lock
from tood.runtime.progress import Progress
from tood.runtime.text import single_line

MIRROR = "TOOD_MIRROR"
TIMEOUT = 60.0  # seconds without a byte after which a connection counts as cut off
ATTEMPTS = 5  # in a row that bring no byte
PAUSE = 2.0  # seconds before the next attempt; doubles each time
_CHUNK = 2**20  # bytes


class DownloadError(RuntimeError):
    """A file that cannot be fetched; the message names its address or its path and gives a hint."""


class _CutOff(OSError):
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
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(path.with_name(f".{path.name}.lock"))
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    if lock is None:
        raise DownloadError(f"{path}: another process fetches it; wait until it ends, or end it")
    try:
        if part.is_symlink() or (part.exists() and not part.is_file()):
            raise DownloadError(f"{part}: is no plain file, to which a download could be written; remove it")
        if not path.exists():  # another process had the lock until now
            _complete(source, _receive(source, part), part, path)
    finally:
        lock.release()


def _complete(source: Source, url: str, part: Path, path: Path) -> None:
    """Give a file that has arrived from `url` its name, if it is the expected one, and write its origin."""
    md5, sha256 = checksums(part)
    if problem := source.problem(md5, sha256):
        part.unlink()
        raise DownloadError(
            f"{source.address}: what arrived is not the expected file: {problem}. It was deleted; call "
            "again, and if that fails the server has another file"
        )
    with part.open("rb") as file:
        os.fsync(file.fileno())
    origin: dict[str, Any] = {"address": source.address}
    if url != source.address:  # after a redirect, or of a mirror
        origin["received_from"] = url
    origin |= {"bytes": part.stat().st_size, "sha256": sha256, "md5": md5}
    write_json(origin_path(path), origin | {"time": datetime.now(UTC).isoformat(timespec="seconds")})
    part.replace(path)


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
            reason = f"the server answers {error.code} {single_line(str(error.reason))}"
            if error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"{source.mirrored}: {reason}") from None
        except ValueError as error:  # an address that urllib cannot read
            raise DownloadError(f"{source.address}: no address of a file on the web ({error})") from None
        except (OSError, http.client.HTTPException) as error:
            reason = single_line(str(error)) or type(error).__name__
        failures = 1 if _size(part) > before else failures + 1
    kept = f"; {part} keeps {_size(part)} bytes, and the next call goes on from there" if _size(part) else ""
    raise DownloadError(f"{source.mirrored}: {ATTEMPTS} attempts failed ({reason}){kept}")


def _connect(source: Source, part: Path) -> str:
    """One connection: append to `part` what it lacks, or write it anew where the server sends all.

    Returns:
        the address that it was received from, after redirects, which urllib follows to the web alone
    """
    if urlsplit(source.mirrored).scheme not in ("http", "https"):
        raise ValueError("only http and https are fetched")
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
        if error.headers.get("Content-Range", "").strip().endswith(f"/{done}"):
            return error.url  # it was whole already
        part.unlink()
        raise _CutOff("what had arrived is longer than the file") from None
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            part.unlink(missing_ok=True)
            raise _CutOff("the server sent another part of the file than the one that was asked for")
        length = response.headers.get("Content-Length", "").strip()
        total = done + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
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


def _write(response: http.client.HTTPResponse, part: Path, done: int, total: int | None) -> None:
    label = f"fetch {part.name.removesuffix('.part')}"
    megabytes, shown = max((total or 0) // 10**6, 1), done // 10**6
    try:
        file = part.open("ab")
        file.truncate(done)
    except OSError as error:
        raise _unwritable(part, error) from error
    with Progress(label, megabytes, done=shown, unit="MB") as progress, file:
        while chunk := response.read(_CHUNK):
            try:
                file.write(chunk)
            except OSError as error:
                raise _unwritable(part, error) from error
            done += len(chunk)
            if total and (news := min(done // 10**6, megabytes) - shown):
                progress.advance(news)
                shown += news
    if total is not None and done != total:
        if done > total:
            part.unlink()
        raise _CutOff(f"the connection ended after {done} of {total} bytes")
    print(f"{label}: {done} bytes", file=sys.stderr, flush=True)


def _unwritable(path: Path, error: OSError) -> DownloadError:
    kept = f"; {_size(path)} bytes of it are kept" if path.is_file() else ""
    hint = "free some space and call again, or make it writable, or choose another folder"
    return DownloadError(f"{path}: cannot be written ({error.strerror}){kept}; {hint}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
