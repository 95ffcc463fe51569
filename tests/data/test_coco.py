"""COCO's archives in small: fetched from a server on this machine and unpacked."""

import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from helpers.server import serving

from tood.data.coco import Archive, download, unpack
from tood.runtime.download import DownloadError
from tood.study.coco import load_archives
from tood.study.plan import Plan
from tood.workflow.stages import archives
from tood.workflow.steps import main

IMAGES = {f"val2017/{number:012}.jpg": bytes([number]) * 1000 for number in range(1, 6)}
LISTS = {f"annotations/{name}_val2017.json": b"{}" for name in ("instances", "captions")}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.mkdir("val2017")
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def archive(address: str, content: bytes, **holds) -> Archive:
    md5 = hashlib.md5(content).hexdigest()
    return Archive(address, bytes=len(content), unpacked=5000, md5=md5, **holds)


@pytest.fixture
def served():
    """A server, and two archives that it has."""
    with serving() as server:
        contents = {"/zips/val2017.zip": zipped(IMAGES), "/annotations/lists.zip": zipped(LISTS)}
        server.files |= contents
        addresses = [server.address + path for path in contents]
        holds = [dict(images={"val2017": 5}), dict(files=("annotations/instances_val2017.json",))]
        yield (
            server,
            [archive(a, c, **h) for a, c, h in zip(addresses, contents.values(), holds, strict=True)],
        )


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def refused(call, *arguments) -> str:
    with pytest.raises(DownloadError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_is_fetched_unpacked_and_its_origin_kept(served, tmp_path):
    server, wanted = served
    download(tmp_path / "coco", wanted)
    found = contents(tmp_path / "coco")
    origins = {name: json.loads(found.pop(name)) for name in list(found) if name.endswith(".origin.json")}
    assert found == IMAGES | LISTS
    assert set(origins) == {"val2017.zip.origin.json", "lists.zip.origin.json"}
    origin = origins["val2017.zip.origin.json"]
    assert origin["address"] == wanted[0].address
    assert (origin["md5"], origin["bytes"]) == (wanted[0].md5, wanted[0].bytes)
    server.requests.clear()
    download(tmp_path / "coco", wanted)
    assert server.requests == []


def test_a_dataset_of_the_users_own_is_not_fetched(served, tmp_path):
    server, wanted = served
    for name, content in (IMAGES | LISTS).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    download(tmp_path, wanted)
    assert server.requests == []
    (tmp_path / "val2017/000000000003.jpg").unlink()
    download(tmp_path, wanted)
    assert [path for path, _ in server.requests] == ["/zips/val2017.zip"]
    assert contents(tmp_path)["val2017/000000000003.jpg"] == IMAGES["val2017/000000000003.jpg"]


def test_what_was_unpacked_before_is_not_written_again(served, tmp_path):
    _, wanted = served
    first = tmp_path / "val2017/000000000001.jpg"
    first.parent.mkdir()
    first.write_bytes(b"x" * 1000)  # of the right size
    download(tmp_path, wanted)
    assert first.read_bytes() == b"x" * 1000
    assert len(list(first.parent.iterdir())) == 5


def test_another_file_in_the_place_of_an_image_stays(served, tmp_path):
    _, wanted = served
    first = tmp_path / "val2017/000000000001.jpg"
    first.parent.mkdir()
    first.write_bytes(b"mine")
    message = refused(download, tmp_path, wanted)
    assert f"{first}: has 4 bytes, val2017.zip has 1000 there; move it away" in message
    assert first.read_bytes() == b"mine"
    assert (tmp_path / "val2017.zip").is_file()


def test_a_missing_archive_is_named(served, tmp_path):
    server, wanted = served
    del server.files["/annotations/lists.zip"]
    message = refused(download, tmp_path, wanted)
    assert "/annotations/lists.zip: the server answers 404" in message
    assert len(list((tmp_path / "val2017").iterdir())) == 5  # those before it are there


def test_an_archive_without_what_is_needed(served, tmp_path):
    _, wanted = served
    message = refused(download, tmp_path, [wanted[0]._replace(images={"val2017": 6})])
    assert "val2017 has 5 of 6 images" in message


def test_the_disk_is_compared_first_with_the_archive_and_its_content(served, tmp_path, monkeypatch):
    server, wanted = served
    largest = max(archive.bytes for archive in wanted)
    needed = sum(archive.unpacked for archive in wanted) + largest
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    assert "COCO, val2017.zip, lists.zip needs" in refused(download, tmp_path, wanted)
    assert server.requests == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    download(tmp_path, wanted)


def test_a_damaged_archive(tmp_path):
    content = bytearray(zipped(IMAGES))
    content[content.index(b"\2" * 100)] = 7  # the checksum of that image is another one now
    (tmp_path / "a.zip").write_bytes(content)
    assert "damaged" in refused(unpack, tmp_path / "a.zip", tmp_path)
    assert not (tmp_path / "val2017/000000000002.jpg").exists()
    assert [path.name for path in (tmp_path / "val2017").iterdir()] == ["000000000001.jpg"]
    (tmp_path / "a.zip").write_bytes(b"no archive")
    assert "damaged" in refused(unpack, tmp_path / "a.zip", tmp_path)


def test_an_archive_that_would_write_elsewhere(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"../outside.jpg": b"x"}))
    (tmp_path / "root").mkdir()
    assert "outside of" in refused(unpack, tmp_path / "a.zip", tmp_path / "root")
    assert not (tmp_path / "outside.jpg").exists()


# What is declared


def edited(**values: int) -> bytes:
    """An archive of one file with other values in its list and at the file, as zipfile writes none."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("val2017/1.jpg", bytes(range(200)))
    changed = bytearray(buffer.getvalue())
    entry = changed.index(b"PK\x01\x02")
    for name, value in values.items():
        offset, size = {"flag": (8, 2), "method": (10, 2), "crc": (16, 4)}[name]
        for start in (entry + offset, offset - 2):
            changed[start : start + size] = value.to_bytes(size, "little")
    return bytes(changed)


def linked() -> bytes:
    """An archive with a link, as `zip --symlinks` writes it."""
    buffer, member = io.BytesIO(), zipfile.ZipInfo("val2017/1.jpg")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, "/etc/hostname")
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1.jpg", b"a")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("1.jpg", b"bb")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: edited(flag=1), "is encrypted"),
        (lambda: edited(crc=7), "damaged"),
        (lambda: edited(method=99), "cannot be unpacked here"),
        (lambda: edited(method=8), "damaged"),
        (lambda: edited(method=14), "damaged"),
        (lambda: zipped(IMAGES)[:-30], "damaged"),
        (lambda: zipped({"/absolute.jpg": b"x"}), "outside of"),
        (lambda: zipped({"a": b"x", "a/b.jpg": b"x"}), "cannot be unpacked"),
        (linked, "is a link"),
        (twice, "twice"),
        (lambda: b"", "damaged"),
    ],
    ids=[
        "encrypted",
        "crc",
        "method",
        "deflate",
        "lzma",
        "cut",
        "absolute",
        "file_and_folder",
        "link",
        "twice",
        "empty",
    ],
)
def test_an_archive_that_cannot_be_unpacked_is_named_once(tmp_path, make, said):
    root = tmp_path / "root"
    (tmp_path / "a.zip").write_bytes(make())
    message = refused(unpack, tmp_path / "a.zip", root)
    assert message.startswith(f"{tmp_path / 'a.zip'}: ")
    assert said in message
    assert not [path for path in root.rglob("*") if path.is_symlink() or path.name.endswith(".part")]


def test_declared_archives():
    found = load_archives()
    assert [name for name, archive in found.items() if archive.optional] == ["test2017.zip"]
    assert all(len(bytes.fromhex(archive.md5)) == 16 for archive in found.values())
    assert all(archive.address.startswith("http://images.cocodataset.org/") for archive in found.values())
    assert found["train2017.zip"].images == {"train2017": 118_287}
    scale = Plan({"scale": "paper"}).scale
    files = {name for archive in found.values() for name in (*archive.files, *archive.images)}
    assert {*scale.train, *scale.val} <= files


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"scale": "paper"}, {"test2017.zip"}),
        ({"scale": "paper", "test2017": True}, set()),
        ({"scale": "paper", "weights": "released"}, {"test2017.zip", "train2017.zip"}),
    ],
)
def test_the_archives_of_a_study(options, absent):
    assert set(load_archives()) - set(archives(Plan(options))) == absent


def test_a_scale_that_draws_its_data_needs_none():
    assert archives(Plan({})) == []


def test_the_step(served, tmp_path):
    server, wanted = served
    declaration = tmp_path / "coco.yaml"
    declaration.write_text(json.dumps({"archives": [archive._asdict() for archive in wanted]}))

    def call(*names):
        root = tmp_path / "coco"
        words = ["download", "--root", root, "--declaration", declaration, "--archives", *names]
        main([str(word) for word in words])
        return contents(root)

    assert set(call("lists.zip")) == {*LISTS, "lists.zip.origin.json"}
    server.files.clear()
    with pytest.raises(SystemExit, match=r"download: .*val2017\.zip: the server answers 404"):
        call("val2017.zip")
    main(["download", "--root", str(tmp_path), "--archives"])
