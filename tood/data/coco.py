"""COCO 2017 in a folder: finds the archives that are missing, fetches and unpacks them."""

import errno
import lzma
import shutil
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tood.runtime.download import DownloadError, Source, fetch, require_space

_IMAGE = ".jpg"
_ENCRYPTED = 0x1  # bit of a member's flags
# What zipfile raises where bytes of an archive are wrong
_OF_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, ValueError)


class Archive(NamedTuple):
    """An archive of COCO, and the content that it puts into the folder."""

    address: str
    bytes: int
    unpacked: int  # approximate bytes of its content
    md5: str
    images: dict[str, int] = {}  # number of them by folder
    files: tuple[str, ...] = ()  # others, such as annotations/instances_val2017.json
    optional: bool = False  # fetched only on request

    @property
    def name(self) -> str:
        """Of the file."""
        return self.address.rsplit("/", 1)[-1]

    def lacking(self, root: Path) -> str | None:
        """What the folder lacks of this archive; None if nothing."""
        for folder, number in self.images.items():
            there = sum(1 for _ in (root / folder).glob(f"*{_IMAGE}"))
            if there < number:
                return f"{folder} has {there} of {number} images"
        absent = [name for name in self.files if not (root / name).is_file()]
        return f"no {', '.join(absent)}" if absent else None


def download(root: Path, archives: Iterable[Archive]) -> None:
    """Fetch and unpack what a folder lacks of COCO; a call that was cut off is resumed.

    An archive is deleted once all of its content is there. `ARCHIVE.origin.json` stays. Files that are there
    already are neither fetched again nor changed.

    Args:
        root: the dataset's folder.
        archives: all that are wanted.

    Raises:
        DownloadError: an archive cannot be fetched or unpacked, or the disk is too small.
    """
    wanted = []
    for archive in archives:
        if lacking := archive.lacking(root):
            wanted.append(archive)
            _say(f"{root}: {lacking}; {archive.name} is needed")
        else:
            _say(f"{root}: the content of {archive.name} is there")
    if wanted:
        require_space(root, _needed(root, wanted), f"COCO, {', '.join(archive.name for archive in wanted)}")
    for archive in wanted:
        path = root / archive.name
        fetch(Source(archive.address, md5=archive.md5), path)
        unpack(path, root)
        if lacking := archive.lacking(root):
            raise DownloadError(f"{path}: unpacked, and yet {lacking}; it is another archive")
        path.unlink()


def _needed(root: Path, archives: Sequence[Archive]) -> int:
    """Bytes that will still be written: all contents, and the largest archive while it is unpacked."""
    patterns = [pattern for a in archives for pattern in (f"{a.name}*", *(f"{name}/*" for name in a.images))]
    there = sum(path.stat().st_size for pattern in patterns for path in root.glob(pattern))
    unpacked = sum(archive.unpacked for archive in archives)
    return max(unpacked + max(archive.bytes for archive in archives) - there, 0)


def unpack(path: Path, root: Path) -> None:
    """Unpack a whole archive, and make sure that each of its files is there.

    Args:
        path: the archive, of the kind zip.
        root: target folder. A file of the right size there counts as already unpacked.

    Raises:
        DownloadError: the archive is damaged, would write elsewhere, holds a link, is encrypted or packed in
            an unknown way, or a different file has the path of one of its files; the archive stays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _require_plain(path, members, root)
            absent = [member for member in members if not _is_there(root / member.filename, member, path)]
            require_space(root, sum(member.file_size for member in absent), f"the content of {path.name}")
            for member in absent:
                _unpack_one(archive, member, root / member.filename)
    except _OF_DAMAGE as error:
        raise DownloadError(f"{path}: damaged ({error}); delete it and call again") from error
    except NotImplementedError as error:
        raise DownloadError(f"{path}: cannot be unpacked here ({error}); unpack it by hand") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "free some space" if full else f"see what is at {error.filename or root}"
        raise DownloadError(f"{path}: cannot be unpacked ({error}); {hint} and call again") from error
    lost = [member.filename for member in members if not _is_there(root / member.filename, member, path)]
    if lost:
        raise DownloadError(f"{root}: {len(lost)} files of {path.name} are missing, such as {lost[0]}")
    _say(f"{path.name}: all of its {len(members)} files are in {root}")


def _require_plain(path: Path, members: Sequence[zipfile.ZipInfo], root: Path) -> None:
    """Make sure that the members of an archive are readable regular files below the folder.

    Raises:
        DownloadError: a member is not.
    """
    seen = set()
    for member in members:
        problem = (
            f"which is outside of {root}"
            if not (root / member.filename).resolve().is_relative_to(root.resolve())
            else "which is a link"
            if stat.S_ISLNK(member.external_attr >> 16)
            else "which is encrypted"
            if member.flag_bits & _ENCRYPTED
            else "twice"
            if member.filename in seen
            else ""
        )
        if problem:
            raise DownloadError(
                f"{path}: holds {member.filename}, {problem}; it is another archive, delete it"
            )
        seen.add(member.filename)


def _unpack_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> None:
    """Write one file; it gets its name when it is whole, so its size tells whether it was unpacked before.

    This does not wait for the disk, which would take longer than everything else for 118,287 files.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    try:
        # Reading to the end compares the checksum of the member.
        with archive.open(member) as packed, temporary.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _is_there(file: Path, member: zipfile.ZipInfo, archive: Path) -> bool:
    if not file.exists():
        return False
    size = file.stat().st_size
    if size != member.file_size:
        raise DownloadError(
            f"{file}: has {size} bytes, {archive.name} has {member.file_size} there; move it away and call "
            "again"
        )
    return True


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
