"""Files from a web server that cuts off, redirects, lies or lacks them."""

import errno
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from helpers.server import Server, serving

from tood.runtime import download
from tood.runtime.download import DownloadError, Source, digest_in_name, fetch, origin_path, require_space
from tood.runtime.locks import try_lock

CONTENT = bytes(range(256)) * 12_000  # 3 MB, three reads
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
FILE = "/weights/a.pth"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.delenv(download.MIRROR, raising=False)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with serving() as server:
        server.files[FILE] = CONTENT
        yield server


def source(server: Server, **checks: str) -> Source:
    return Source(server.address + FILE, **({"sha256": SHA256} | checks))


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def refused(source: Source, path: Path) -> str:
    with pytest.raises(DownloadError) as error:
        fetch(source, path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "checks",
    [{}, {"sha256": SHA256[:8]}, {"sha256": "", "md5": MD5}, {"sha256": ""}],
    ids=["sha256", "prefix", "md5", "none"],
)
def test_a_file_and_its_origin(server, tmp_path, checks):
    path = tmp_path / "new" / "a.pth"
    fetch(source(server, **checks), path)
    assert path.read_bytes() == CONTENT
    assert server.requests == [(FILE, None)]
    origin = json.loads(origin_path(path).read_text())
    assert origin.pop("time")
    assert origin == {
        "address": server.address + FILE,
        "bytes": len(CONTENT),
        "sha256": SHA256,
        "md5": MD5,
    }
    assert {p.name for p in path.parent.iterdir() if not p.name.startswith(".")} == {
        "a.pth",
        "a.pth.origin.json",
    }


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(CONTENT)
    fetch(source(server), path)
    assert server.requests == []


def test_another_file_in_its_place_is_left_alone(server, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"mine")
    message = refused(source(server, sha256=SHA256[:8]), path)
    assert str(path) in message
    assert f"expected {SHA256[:8]}" in message
    assert hashlib.sha256(b"mine").hexdigest()[:8] in message
    assert path.read_bytes() == b"mine"
    assert server.requests == []


# Connections


def test_cut_off_and_resumed(server, tmp_path):
    server.cuts[FILE] = [1_500_000, 1_000_000]
    fetch(source(server), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.requests == [(FILE, None), (FILE, "bytes=1500000-"), (FILE, "bytes=2500000-")]


def test_resumed_by_the_next_call(server, tmp_path, monkeypatch):
    server.cuts[FILE] = [1_500_000, *[0] * 10]
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    message = refused(source(server), tmp_path / "a.pth")
    for word in ("3 attempts", "1500000 of", "a.pth.part keeps 1500000 bytes", "goes on from there"):
        assert word in message
    assert not (tmp_path / "a.pth").exists()
    server.cuts.clear()
    server.requests.clear()
    fetch(source(server), tmp_path / "a.pth")
    assert server.requests == [(FILE, "bytes=1500000-")]
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_a_server_that_ignores_range(server, tmp_path):
    server.ranges = False
    part_of(tmp_path / "a.pth").write_bytes(b"x" * 1_000_000)
    fetch(source(server), tmp_path / "a.pth")
    assert server.requests == [(FILE, "bytes=1000000-")]
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_a_server_that_says_no_length(server, tmp_path):
    server.lengths = False
    fetch(source(server), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_what_had_arrived_is_whole(server, tmp_path):
    part_of(tmp_path / "a.pth").write_bytes(CONTENT)
    fetch(source(server), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_what_had_arrived_is_too_long(server, tmp_path):
    part_of(tmp_path / "a.pth").write_bytes(CONTENT + b"more")
    fetch(source(server), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_a_redirect_keeps_the_range(server, tmp_path):
    server.redirects["/latest"] = FILE
    part_of(tmp_path / "a.pth").write_bytes(CONTENT[:1000])
    fetch(Source(f"{server.address}/latest", sha256=SHA256), tmp_path / "a.pth")
    assert server.requests == [("/latest", "bytes=1000-"), (FILE, "bytes=1000-")]
    origin = json.loads(origin_path(tmp_path / "a.pth").read_text())
    assert (origin["address"], origin["received_from"]) == (
        f"{server.address}/latest",
        server.address + FILE,
    )


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_the_server_lacks(server, tmp_path, status):
    server.statuses[FILE] = [status] * 9
    message = refused(source(server), tmp_path / "a.pth")
    assert server.address + FILE in message
    assert f"answers {status}" in message
    assert len(server.requests) == 1  # no use in asking again
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_for_a_while(server, tmp_path, status):
    server.statuses[FILE] = [status, status]
    fetch(source(server), tmp_path / "a.pth")
    assert len(server.requests) == 3
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serving() as server:
        address = server.address
    message = refused(Source(address + FILE), tmp_path / "a.pth")
    assert address in message
    assert "refused" in message


# Contents


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 8}, {"md5": "0" * 32}], ids=["sha256", "md5"])
def test_a_wrong_checksum(server, tmp_path, wrong):
    message = refused(source(server, **wrong), tmp_path / "a.pth")
    assert "what arrived is not the expected file" in message
    assert next(iter(wrong.values())) in message
    assert [path.name for path in tmp_path.iterdir()] in ([], [".a.pth.lock"])


def test_a_damaged_part_is_not_resumed_for_ever(server, tmp_path):
    part_of(tmp_path / "a.pth").write_bytes(b"x" * 1000)
    refused(source(server), tmp_path / "a.pth")
    fetch(source(server), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


# The disk


def test_too_little_space_is_said_before_anything_arrives(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = refused(source(server), tmp_path / "a.pth")
    assert "a.pth needs 0.00 GB" in message
    assert not part_of(tmp_path / "a.pth").exists()


def test_resuming_needs_space_for_the_rest_alone(server, tmp_path, monkeypatch):
    part_of(tmp_path / "a.pth").write_bytes(CONTENT[:2_500_000])
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    fetch(source(server), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_space_in_a_folder_that_is_not_there_yet(tmp_path):
    require_space(tmp_path / "a" / "b", 1, "it")
    with pytest.raises(DownloadError, match=r"it needs 1000000000\.00 GB, .* free some space"):
        require_space(tmp_path / "a" / "b", 10**18, "it")


def test_a_disk_that_gets_full_keeps_what_arrived(server, tmp_path, monkeypatch):
    """The second write fails, as on a full disk."""
    opened = Path.open

    def limited(path: Path, mode: str = "r", *arguments):
        file = opened(path, mode, *arguments)
        if path.suffix != ".part" or mode != "ab":
            return file
        written = []

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *exception):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, chunk):
                if written:
                    raise OSError(errno.ENOSPC, "No space left on device")
                written.append(file.write(chunk))

        return Full()

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", limited)
        message = refused(source(server), tmp_path / "a.pth")
    for word in ("No space left on device", "a.pth.part", f"{2**20} bytes of it are kept", "call again"):
        assert word in message
    fetch(source(server), tmp_path / "a.pth")
    assert server.requests[-1] == (FILE, f"bytes={2**20}-")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


# Addresses


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_has_each_host_in_a_folder(server, tmp_path, monkeypatch, slash):
    server.files["/mirror/download.example.org/x/a-1.pth"] = CONTENT
    monkeypatch.setenv(download.MIRROR, f"{server.address}/mirror{slash}")
    fetch(Source("https://download.example.org/x/a-1.pth", sha256=SHA256), tmp_path / "a.pth")
    origin = json.loads(origin_path(tmp_path / "a.pth").read_text())
    assert origin["address"] == "https://download.example.org/x/a-1.pth"
    assert origin["received_from"] == f"{server.address}/mirror/download.example.org/x/a-1.pth"


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("vfnet_x101_20201027pth-b5f6da5e.pth", "b5f6da5e"),
        ("TOOD_R_50_FPN_1x.pth", ""),
        ("atss-head.pth", ""),
        ("a-1234567.pth", ""),
    ],
)
def test_the_digest_in_a_name(name, digest):
    assert digest_in_name(name) == digest


def test_two_processes_do_not_write_to_one_file(server, tmp_path):
    lock = try_lock(tmp_path / ".a.pth.lock")
    assert lock is not None
    assert "another process fetches it" in refused(source(server), tmp_path / "a.pth")
    lock.release()
    fetch(source(server), tmp_path / "a.pth")


@pytest.mark.parametrize("length", ["many", "-5", "", "3.0e6", "0x10", "9" * 40])
def test_a_length_that_is_no_number_is_none(server, tmp_path, length):
    """The checksum says then whether the file is whole."""
    server.headers[FILE] = [{"Content-Length": length}] * 3
    server.cuts[FILE] = [1_000_000]
    fetch(source(server), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [None, "many"])
def test_what_nothing_would_tell_whole_is_refused(server, tmp_path, length):
    server.lengths = False
    server.headers[FILE] = [{"Content-Length": length}] if length else []
    server.cuts[FILE] = [1_000_000]
    message = refused(source(server, sha256=""), tmp_path / "a.pth")
    assert "does not say how long the file is" in message
    assert not (tmp_path / "a.pth").exists()


def test_cut_off_where_the_server_says_no_length(server, tmp_path):
    server.lengths = False
    server.cuts[FILE] = [1_000_000, 500_000]
    fetch(source(server), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000000-", "bytes=1500000-"]


@pytest.mark.parametrize(
    "sent",
    ["", "bytes", "bytes 0-9/10", "bytes 999-2/3", "octets 1000-9/10"],
)
def test_another_part_than_the_one_that_was_asked_for_is_not_taken(server, tmp_path, sent):
    part_of(tmp_path / "a.pth").write_bytes(CONTENT[:1000])
    server.headers[FILE] = [{"Content-Range": sent}]
    fetch(source(server, sha256=""), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["bytes=1000-", None]


def test_the_rest_of_a_file_whose_size_the_server_leaves_open(server, tmp_path):
    part_of(tmp_path / "a.pth").write_bytes(CONTENT[:1000])
    server.headers[FILE] = [{"Content-Range": f"bytes 1000-{len(CONTENT) - 1}/*"}]
    fetch(source(server, sha256=""), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["link", "broken link", "folder"])
def test_what_is_no_plain_file_is_not_written_to(server, tmp_path, kind):
    victim, part = tmp_path / "victim", part_of(tmp_path / "a.pth")
    if kind == "folder":
        part.mkdir()
    else:
        part.symlink_to(victim)
        if kind == "link":
            victim.write_text("kept")
    message = refused(source(server), tmp_path / "a.pth")
    assert message.startswith(f"{part}: is no plain file")
    assert victim.exists() == (kind == "link")
    assert server.requests == []


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,x", "gopher://x/"])
def test_a_redirect_away_from_the_web_is_not_followed(server, tmp_path, target):
    server.redirects[FILE] = target
    refused(source(server), tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize(
    "address", ["file:///etc/hostname", "ftp://127.0.0.1/a", "/etc/hostname", "", "http://["]
)
def test_only_the_web_is_fetched_from(tmp_path, address, server):
    refused(Source(address), tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize("blocked", ["file", "read-only"])
def test_a_folder_that_cannot_be_written_is_named_at_once(server, tmp_path, blocked):
    folder = tmp_path / "weights"
    if blocked == "file":
        folder.write_text("in its place")
    else:
        folder.symlink_to("/proc/self")
    assert str(folder) in refused(source(server), folder / "a.pth")
    assert server.requests == []
