"""The one reader of images: ordinary ones as mmcv reads them, the others by stated rules, or refused."""

import io
import os
import re
import socket
import struct
import zlib
from pathlib import Path

import mmcv
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from tood.data.images import FORMATS, MOST_PIXELS, ImageError, decode, read_image
from tood.data.labelled import SUFFIXES

ORIENTATION = 0x0112
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF>'
    b"</x:xmpmeta>"
)
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(9, 0).repeat(9, 1)
PICTURE = Image.fromarray(COLOURS)  # 72 x 54 pixels, in blocks
LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "WEBP": {"lossless": True}}


def test_files_are_images_by_the_suffixes_of_the_formats():
    """As Pillow has them; an MPO is a JPEG, and the floats of a PFM are refused."""
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")}
    assert {*SUFFIXES} == known - {".pfm"}
    assert list(SUFFIXES) == sorted(SUFFIXES)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(content: bytes) -> np.ndarray:
    """[H, W, 3] in RGB."""
    pixels = decode(content, Path("image"))
    assert (pixels.dtype, pixels.ndim, pixels.flags.c_contiguous) == (np.uint8, 3, True)
    return pixels[..., ::-1]


def refused(content: bytes) -> str:
    with pytest.raises(ImageError, match=r"^image: cannot be read as an image: .*\. Hint: ") as caught:
        decode(content, Path("image"))
    return str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_ordinary_images_are_what_mmcv_reads(mode, kind):
    image = PICTURE.convert(mode)
    if mode == "RGBA":
        image.putalpha(PICTURE.convert("L"))
    try:
        content = encoded(image, kind)
    except OSError:  # a mode that the format lacks
        return
    assert np.array_equal(decode(content, Path("image")), mmcv.imfrombytes(content))


def test_photographs_are_what_mmcv_reads(real_images):
    paths = sorted(real_images.glob("*2017/*.jpg"))[:20]
    assert paths
    for path in paths:
        assert np.array_equal(read_image(path), mmcv.imread(path))


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_all_kinds_of_jpeg_are_what_mmcv_reads(options):
    content = encoded(PICTURE, "JPEG", **options)
    assert np.array_equal(decode(content, Path("image")), mmcv.imfrombytes(content))


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_image_is_turned_as_its_exif_says(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(PICTURE, kind, exif=exif, **LOSSLESS.get(kind, {}))
    pixels = read(content)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert pixels.shape == upright.shape == ((54, 72, 3) if orientation < 5 else (72, 54, 3))
    assert np.abs(pixels.astype(int) - upright).max() <= 1
    if kind in ("JPEG", "PNG"):
        assert np.array_equal(pixels, mmcv.imfrombytes(content)[..., ::-1])


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def turned_by_text() -> bytes:
    """A PNG as ImageMagick 6 made it of a turned JPEG."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    raw, text = exif.tobytes(), PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=True)
    return encoded(PICTURE, "PNG", pnginfo=text)


def test_exif_behind_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(PICTURE, "PNG")
    content = content[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + content[-12:]
    assert np.array_equal(read(content), np.asarray(PICTURE.transpose(Image.Transpose.ROTATE_270)))


def with_xmp(kind: str, xmp: bytes) -> bytes:
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
        return encoded(PICTURE, kind, pnginfo=text)
    return encoded(PICTURE, kind, **({"tiffinfo": {700: xmp}} if kind == "TIFF" else {"xmp": xmp}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_in_xmp_alone_is_refused(kind, orientation):
    """Pillow turns such an image, OpenCV and browsers do not, so its boxes may be of either."""
    assert "only its XMP says" in refused(with_xmp(kind, XMP % orientation))
    other = (XMP % orientation).replace(b'tiff:Orientation="%d"/>' % orientation, b">")
    element = other.replace(b"</rdf:RDF>", b"<tiff:Orientation>%d</tiff:Orientation></rdf:RDF>" % orientation)
    assert "only its XMP says" in refused(with_xmp(kind, element))
    assert read(with_xmp(kind, XMP % 1)).shape == (54, 72, 3)


def test_an_orientation_in_the_text_of_a_png_is_refused():
    assert "only its text 'Raw profile type exif' says" in refused(turned_by_text())


def test_exif_counts_where_xmp_says_otherwise():
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    content = encoded(PICTURE, "JPEG", exif=exif, xmp=XMP % 6)
    assert np.array_equal(decode(content, Path("image")), mmcv.imfrombytes(content))


def test_exif_that_cannot_be_read_says_nothing():
    content = encoded(PICTURE, "JPEG", exif=b"Exif\0\0garbage")
    assert np.array_equal(decode(content, Path("image")), mmcv.imfrombytes(content))


# Depth, colours, frames


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_of_16_bits_the_upper_8_count(kind):
    grey = np.random.default_rng(1).integers(0, 2**16, (20, 30)).astype(np.uint16)
    image = Image.fromarray(grey if kind != "PPM" else grey.astype(np.int32))
    content = encoded(image, kind)
    assert np.array_equal(read(content), np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2))
    if kind != "PPM":
        assert np.array_equal(decode(content, Path("image")), mmcv.imfrombytes(content))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm"])
def test_of_16_bits_per_channel_the_upper_8_count(suffix):
    import cv2  # writes them; Pillow does not

    deep = np.random.default_rng(1).integers(0, 2**16, (20, 30, 3)).astype(np.uint16)
    content = cv2.imencode(suffix, deep)[1].tobytes()
    assert np.abs(decode(content, Path("image")).astype(int) - (deep >> 8)).max() <= (suffix == ".ppm")


@pytest.mark.parametrize("mode", ["F", "I"])
def test_32_bits_are_refused(mode):
    assert "32 bits, whose range is not known" in refused(encoded(PICTURE.convert(mode), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_dropped_everywhere_alike(kind):
    image = PICTURE.copy()
    image.putalpha(PICTURE.convert("L").point(lambda value: max(value, 1)))
    exact = {"exact": True} if kind == "WEBP" else {}
    assert np.array_equal(read(encoded(image, kind, **LOSSLESS[kind], **exact)), COLOURS)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_formats_without_loss_give_the_same_pixels(kind, mode):
    image = PICTURE.convert(mode)
    assert np.array_equal(read(encoded(image, kind, **LOSSLESS[kind])), np.asarray(image.convert("RGB")))


def test_a_palette_gives_its_colours():
    image = PICTURE.quantize(16)
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        assert np.array_equal(read(encoded(image, kind)), np.asarray(image.convert("RGB")))
    transparent = encoded(image, "PNG", transparency=0)
    assert np.array_equal(read(transparent), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_of_several_frames_the_first_counts(kind):
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    pixels = read(encoded(first, kind, save_all=True, append_images=[second]))
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 5


# What is refused


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}), ("GIF", {}), ("PPM", {})),
        *(("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})),
        *(("TIFF", {"compression": "tiff_deflate"}), ("JPEG2000", {}), ("AVIF", {})),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_refused(kind, options, share):
    content = encoded(Image.effect_noise((160, 120), 90).convert("RGB"), kind, **options)
    assert "fetch or export the file again" in refused(content[: int(share * len(content))])


def test_the_end_of_a_jpeg_is_looked_for():
    """OpenCV once filled the rest with grey."""
    refused(encoded(PICTURE, "JPEG")[:-2])


def test_of_what_runs_a_program_nothing_is_read():
    """Pillow hands PostScript to Ghostscript."""
    assert "no image of a known format" in refused(encoded(PICTURE, "EPS"))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1"])
def test_other_files_are_refused(content):
    assert "no image of a known format" in refused(content)


def test_a_file_of_more_pixels_than_memory_is_refused_before_it_is_decoded():
    header = struct.pack(">IIBBBBB", 2**16, MOST_PIXELS // 2**16 + 1, 1, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    message = refused(content + chunk(b"IEND", b""))
    assert "65536 x 4097 pixels are 269 megapixels; at most 268 are read" in message
    assert "cut the image into parts, or scale it down" in message


def test_what_is_above_the_limit_of_pillow_alone_is_read():
    assert read(encoded(Image.new("1", (14000, 14000)), "PNG")).shape == (14000, 14000, 3)


def test_long_texts_in_a_png_do_not_matter():
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "x" * 3_000_000, zip=True)
    assert np.array_equal(read(encoded(PICTURE, "PNG", pnginfo=text)), COLOURS)


def test_a_suffix_does_not_matter_nor_does_a_name(tmp_path):
    for name in ("wrong.jpg", "no suffix", "ünï 猫 [1]*?$(x).png", os.fsdecode(b"\xff\xfe.png"), "a\nb.png"):
        (tmp_path / name).write_bytes(encoded(PICTURE, "PNG"))
        assert np.array_equal(read_image(tmp_path / name)[..., ::-1], COLOURS)


def test_what_is_no_file_does_not_make_the_reader_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.jpg"))  # whose path must be short
    for name in ("pipe.jpg", "folder.jpg", "socket.jpg"):
        with pytest.raises(ImageError, match=rf"{name}: cannot be read .*: a folder, pipe or device"):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match=r"none\.jpg: .*No such file"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("tag", "value", "said"), [(258, 12, "samples have 12 bits"), (262, 0, "of which 0 is white")]
)
def test_samples_of_a_tiff_that_mean_something_else_are_refused(tag, value, said):
    """Pillow gives their numbers, and says neither how large they can be nor which is white."""
    plain = encoded(Image.fromarray(np.full((40, 50), 700, np.uint16)), "TIFF")
    assert read(plain).max() == 700 >> 8
    entry = re.compile(rb"(" + re.escape(struct.pack("<HHI", tag, 3, 1)) + rb")..", re.DOTALL)
    changed, number = entry.subn(lambda match: match[1] + struct.pack("<H", value), plain)
    assert number == 1
    assert said in refused(changed)
