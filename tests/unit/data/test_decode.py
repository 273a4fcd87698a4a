"""Every picture that can be decoded comes out as upright RGB; what can't be is refused with its reason."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raexla.data import decode
from raexla.data.decode import decode_image
from raexla.data.sample import Refused
from raexla.data.transforms import CentreCropRecipe, RandomCropRecipe, SquashRecipe, build_transform, decoded_at_least

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

RED = np.array([255, 0, 0])


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def red(mode: str) -> Image.Image:
    return Image.new("RGB", (12, 10), "red").convert(mode)


def half_clear(mode: str) -> Image.Image:
    image = Image.new("RGBA", (12, 10), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (6, 0, 12, 10))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (saved(red("RGB"), "PNG"), 0),
        (saved(red("RGB"), "JPEG", quality=95), 3),
        (saved(red("RGB"), "WEBP", lossless=True), 0),
        (saved(red("RGB"), "BMP"), 0),
        (saved(red("RGB"), "TIFF"), 0),
        (saved(red("P"), "PNG"), 0),
        (saved(red("P"), "GIF"), 0),
        (saved(red("CMYK"), "JPEG", quality=95), 3),
        (saved(red("CMYK"), "TIFF"), 0),
    ],
)
def test_modes_and_formats(data: bytes, tolerance: int) -> None:
    pixels = decode_image(data)
    assert pixels.shape == (10, 12, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - RED).max() <= tolerance


@pytest.mark.parametrize(
    ("value", "dtype", "expected"), [(0, np.uint16, 0), (65535, np.uint16, 255), (32896, np.uint16, 128)]
)
def test_16_bit_grey_is_scaled_not_clipped(value: int, dtype: type, expected: int) -> None:
    image = Image.fromarray(np.full((4, 4), value, dtype=dtype))
    for format in ("PNG", "TIFF"):
        assert (decode_image(saved(image, format)) == expected).all()


def test_float_tiff() -> None:
    image = Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32))
    assert (decode_image(saved(image, "TIFF")) == 128).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(mode: str) -> None:
    assert (decode_image(saved(Image.new(mode, (4, 4), 255), "PNG")) == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_over_white(mode: str) -> None:
    image = half_clear("RGBA").convert("LA") if mode == "LA" else half_clear("RGBA")
    image = image.quantize(8) if mode == "PA" else image
    pixels = decode_image(saved(image, "PNG"))
    assert (pixels[:, 6:] == 255).all()
    if mode != "LA":
        assert (pixels[:, :6] == RED).all()


def test_transparent_colour_of_an_rgb_png_is_over_white() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    assert (decode_image(saved(image, "PNG", transparency=(1, 2, 3))) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation: int) -> None:
    upright = np.zeros((6, 9, 3), dtype=np.uint8)
    upright[:2, :3] = 255  # top left
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    assert (decode_image(saved(stored, "PNG", exif=exif)) == upright).all()


def test_damaged_exif_is_upright() -> None:
    data = saved(red("RGB"), "JPEG", exif=b"Exif\0\0MM\0*garbage garbage")
    assert decode_image(data).shape == (10, 12, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_animation_gives_its_first_frame(format: str) -> None:
    frames = [red("RGB"), Image.new("RGB", (12, 10), "blue")]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:])
    assert np.abs(decode_image(data)[5, 5].astype(int) - RED).max() <= 3


def _png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_image"),
        (b"<html>not found</html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (_png_claiming(60_000, 60_000), "image_too_large"),
        (_png_claiming(9_600, 9_600), "image_too_large"),
        (_png_claiming(30, 30), "truncated_image"),
    ],
)
def test_refusals(data: bytes, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        decode_image(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_cut_pictures_are_refused(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), format)
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(Refused):
            decode_image(data[: int(len(data) * part)])


def test_flipped_bits_never_raise_anything_else(picture: Callable[..., bytes]) -> None:
    rng = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = np.frombuffer(picture(size=(24, 24), format=format), dtype=np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(len(damaged), size=3)] ^= rng.integers(1, 256, size=3, dtype=np.uint8)
            with contextlib.suppress(Refused):
                assert decode_image(damaged.tobytes(), max_pixels=1 << 20).ndim == 3


def test_jpeg_may_be_decoded_smaller(picture: Callable[..., bytes]) -> None:
    data = picture(size=(640, 480), format="JPEG")
    assert decode_image(data, at_least=100).shape == (120, 160, 3)
    assert decode_image(data).shape == (480, 640, 3)


def test_transforms() -> None:
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:, 40:] = 255
    rng = np.random.default_rng(0)
    squashed = build_transform(SquashRecipe(size=16))(image, rng)
    assert squashed.shape == (16, 16, 3)
    assert squashed[:, :6].max() < 20
    centre = build_transform(CentreCropRecipe(type="centre_crop", size=16))(image, rng)
    assert centre.shape == (16, 16, 3)
    assert centre[8, 2].max() < 20
    assert centre[8, 13].min() > 235
    crop = build_transform(RandomCropRecipe(type="random_crop", size=16, resize=24, flip=True))
    crops = [crop(image, np.random.default_rng(seed)) for seed in range(8)]
    assert (crops[0] == crop(image, np.random.default_rng(0))).all()
    assert len({one.tobytes() for one in crops}) > 2
    with pytest.raises(ValueError, match="resize 8 is smaller than the crop of 16"):
        build_transform(CentreCropRecipe(type="centre_crop", size=16, resize=8))


def photograph(height: int, width: int, mode: str = "RGB", **options: Any) -> bytes:
    """A JPEG of smooth noise."""
    rng = np.random.default_rng(height * width)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 7 + 2, width // 7 + 2, 3), dtype=np.uint8))
    return saved(coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode), "JPEG", **options)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_the_short_way_of_jpegs_gives_the_pixels_of_pillow(mode: str, progressive: bool, subsampling: str) -> None:
    for height, width, quality in [(61, 83, 90), (64, 48, 50), (33, 200, 97)]:
        data = photograph(height, width, mode, quality=quality, progressive=progressive, subsampling=subsampling)
        assert decode._plain_jpeg(data, 10**6, None) is not None
        with Image.open(io.BytesIO(data)) as image:
            assert (decode_image(data) == np.asarray(image.convert("RGB"))).all()


def test_jpegs_that_need_more_go_to_pillow() -> None:
    whole = photograph(40, 60)
    turned = Image.Exif()
    turned[0x0112] = 6
    for data in (photograph(40, 60, "CMYK"), photograph(40, 60, exif=turned), whole[:-40], whole[:300]):
        assert decode._plain_jpeg(data, 10**6, None) is None
    assert decode._plain_jpeg(whole, 2399, None) is None
    assert decode_image(photograph(40, 60, exif=turned)).shape == (60, 40, 3)
    with pytest.raises(Refused, match="image_too_large"):
        decode_image(whole, max_pixels=2399)
    with pytest.raises(Refused, match="truncated_image"):
        decode_image(whole[:-40])


def test_scaled_decoding_keeps_both_sides_large_enough() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for options in ({}, {"exif": exif}):
        data = photograph(401, 303, **options)
        shapes = {at_least: decode_image(data, at_least=at_least).shape[:2] for at_least in (500, 152, 76, 38, 20)}
        assert shapes == {500: (401, 303), 152: (201, 152), 76: (101, 76), 38: (51, 38), 20: (51, 38)}


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_fast_is_pillow_within_one_level(filter: Any) -> None:
    rng = np.random.default_rng(0)
    image = decode_image(photograph(190, 150))
    for made in (SquashRecipe(size=64, filter=filter), CentreCropRecipe(type="centre_crop", size=60, filter=filter)):
        quick = build_transform(made.model_copy(update={"fast": True}))(image, rng)
        exact = build_transform(made)(image, rng)
        difference = np.abs(quick.astype(int) - exact)
        assert difference.max() <= 1
        assert difference.mean() < 0.02
        nearest = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST))
        if made.type == "squash":
            assert np.abs(nearest.astype(int) - exact).max() > 5  # what it isn't
    assert decoded_at_least(SquashRecipe(size=64)) is None
    assert decoded_at_least(RandomCropRecipe(type="random_crop", size=64, fast=True)) == 192
    with pytest.raises(ValueError, match="filter is lanczos"):
        build_transform(SquashRecipe(size=64, filter="lanczos", fast=True))
