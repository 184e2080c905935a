"""Pictures come out as a person sees them; bad ones say why."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.errors import InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image
from tests import media_files as files

BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=16 * 784)
decoder = MediaDecoder(MediaPolicy(isolate=False))


def decode(source, **policy):
    chosen = MediaDecoder(MediaPolicy(isolate=False, **policy)) if policy else decoder
    return chosen.decode(Image(source), BUDGET)


def pixels(source, **policy):
    (frame,) = decode(source, **policy).frames
    assert frame.dtype == np.uint8 and frame.shape[2] == 3 and frame.flags.c_contiguous
    return frame


def error(source, **policy):
    with pytest.raises(InputError) as caught:
        decode(source, **policy)
    assert caught.value.part == "image"
    assert "0x" not in str(caught.value)
    return caught.value


# -- what a good picture looks like ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_lossless_formats_give_the_exact_pixels(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (pixels(files.encode_image(files.photo(), kind, **options)) == files.photo()).all()


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_lossy_formats_give_nearly_the_pixels(kind):
    found = pixels(files.encode_image(files.photo(), kind, quality=95)).astype(int)
    assert np.abs(found - files.photo()).mean() < 4


def test_a_large_jpeg_can_be_decoded_at_a_part_of_its_size():
    source = files.encode_image(files.photo(640, 480), "JPEG", quality=95)
    rows, columns = BUDGET.resize(480, 640)
    scaled = pixels(source, scaled_jpeg=True)
    assert scaled.shape == (120, 160, 3) and rows <= 120 and columns <= 160
    whole = PILImage.fromarray(pixels(source)).reduce(4)
    assert np.abs(scaled.astype(int) - np.asarray(whole)).mean() < 2
    exif = PILImage.Exif()
    exif[0x0112] = 6
    turned = files.encode_image(files.photo(480, 640), "JPEG", exif=exif)
    assert pixels(turned, scaled_jpeg=True).shape == (120, 160, 3)
    small = files.encode_image(files.photo(100, 100), "JPEG")
    assert (pixels(small, scaled_jpeg=True) == pixels(small)).all()
    png = files.encode_image(files.photo(640, 480))
    assert pixels(png, scaled_jpeg=True).shape == (480, 640, 3)


def test_limits_of_a_scaled_jpeg_are_those_of_its_full_size():
    source = files.encode_image(files.photo(640, 480), "JPEG")
    assert error(source, scaled_jpeg=True, max_pixels=640 * 480 - 1).code == "too_many_pixels"
    strip = files.encode_image(files.photo(2010, 10), "JPEG")
    assert error(strip, scaled_jpeg=True).code == "aspect_ratio"


def test_the_picture_keeps_its_full_size_and_content_decides_the_format(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(files.encode_image(files.photo(640, 480)))
    assert pixels(path).shape == (480, 640, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_upright(kind, orientation):
    upright = PILImage.fromarray(files.photo(64, 48))
    undo = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }
    stored = upright
    if orientation in undo:
        stored = upright.transpose(getattr(PILImage.Transpose, undo[orientation]))
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    quality = {} if kind in {"PNG", "TIFF"} else {"quality": 95}
    found = pixels(files.encode_image(stored, kind, exif=exif, **quality))
    assert found.shape == (48, 64, 3)
    assert np.abs(found.astype(int) - np.array(upright)).mean() < 4


def test_a_picture_in_memory_is_turned_upright_too():
    exif = PILImage.Exif()
    exif[0x0112] = 6
    data = files.encode_image(files.photo(64, 48), exif=exif)
    import io

    with PILImage.open(io.BytesIO(data)) as opened:
        assert pixels(opened).shape == (64, 48, 3)


def test_transparency_is_laid_on_white_in_every_spelling():
    alpha = np.zeros((2, 3, 4), np.uint8)
    alpha[..., :3] = (10, 200, 30)
    alpha[0, 0, 3], alpha[0, 1, 3] = 255, 128
    rgba = PILImage.fromarray(alpha)
    expected_half = round(255 - 128 / 255 * (255 - 10))
    for source in [
        files.encode_image(rgba),
        files.encode_image(rgba, "WEBP", lossless=True, exact=True),
        rgba,
        alpha,
    ]:
        found = pixels(source)
        assert found[0, 0].tolist() == [10, 200, 30]
        assert abs(int(found[0, 1, 0]) - expected_half) <= 1
        assert found[1, 2].tolist() == [255, 255, 255]


def test_grey_with_alpha_palette_key_and_colour_key_are_transparent():
    grey_alpha = PILImage.fromarray(np.full((2, 2), 80, np.uint8)).convert("LA")
    grey_alpha.putpixel((1, 1), (80, 0))
    palette = PILImage.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((0, 0), 1)
    colour = PILImage.new("RGB", (2, 2), (0, 0, 255))
    colour.putpixel((0, 0), (255, 0, 0))
    key_grey = PILImage.new("L", (2, 2), 7)
    key_grey.putpixel((0, 0), 90)
    assert pixels(files.encode_image(grey_alpha))[1, 1].tolist() == [255] * 3
    assert pixels(files.encode_image(grey_alpha))[0, 0].tolist() == [80] * 3
    for kind in ["PNG", "GIF"]:
        found = pixels(files.encode_image(palette, kind, transparency=0))
        assert found[0, 0].tolist() == [200, 0, 0]
        assert found[1, 1].tolist() == [255] * 3
    found = pixels(files.encode_image(colour, transparency=(0, 0, 255)))
    assert found[0, 0].tolist() == [255, 0, 0] and found[1, 1].tolist() == [255] * 3
    found = pixels(files.encode_image(key_grey, transparency=7))
    assert found[0, 0].tolist() == [90] * 3 and found[1, 1].tolist() == [255] * 3


def test_the_background_can_be_chosen():
    clear = PILImage.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert pixels(clear, background=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 257, 32896], [65535, 300, 128]], np.uint16)
    for kind in ["PNG", "TIFF"]:
        found = pixels(files.encode_image(PILImage.fromarray(values), kind))
        assert found[..., 0].tolist() == [[0, 1, 128], [255, 1, 0]]


def test_float_pictures_need_the_range_zero_to_one():
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    found = pixels(files.encode_image(PILImage.fromarray(ramp), "TIFF"))
    assert (found[..., 0] == np.rint(ramp * 255)).all()
    assert error(PILImage.fromarray(ramp * 200)).code == "invalid_type"
    assert error(PILImage.fromarray(ramp * np.nan)).code == "nonfinite"
    wide = PILImage.fromarray(np.array([[0, 1 << 20]], np.int32))
    assert error(wide).code == "invalid_type"


def test_cmyk_palette_one_bit_and_grey_become_the_right_colours():
    cmyk = PILImage.new("CMYK", (8, 8), (0, 255, 255, 0))
    for kind in ["JPEG", "TIFF"]:
        red, green, blue = pixels(files.encode_image(cmyk, kind))[4, 4]
        assert red > 240 and green < 20 and blue < 20
    palette = PILImage.fromarray(files.photo()).quantize(16)
    assert (pixels(files.encode_image(palette)) == np.array(palette.convert("RGB"))).all()
    one_bit = PILImage.new("1", (3, 2), 0)
    one_bit.putpixel((1, 1), 1)
    found = pixels(files.encode_image(one_bit))
    assert found[1, 1].tolist() == [255] * 3 and found[0, 0].tolist() == [0] * 3
    grey = PILImage.new("L", (3, 2), 77)
    assert (pixels(files.encode_image(grey, "BMP")) == 77).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_frame_is_taken_with_a_warning(kind):
    shades = [PILImage.new("RGB", (32, 32), (value,) * 3) for value in (250, 120, 10)]
    data = files.encode_image(shades[0], kind, save_all=True, append_images=shades[1:])
    decoded = decode(data)
    assert decoded.warnings == ("animated: frame 0 of 3",)
    assert decoded.frames[0].min() > 240


@pytest.mark.parametrize("size", [(1, 1), (2, 400), (400, 2), (1, 200)])
def test_small_and_thin_pictures_are_fine(size):
    assert pixels(files.encode_image(PILImage.new("RGB", size))).shape == (size[1], size[0], 3)


# -- pictures in memory ------------------------------------------------------------------------


def test_uint8_arrays_of_height_width_and_channels_are_pictures():
    photo = files.photo()
    assert (pixels(photo) == photo).all()
    assert (pixels(photo[..., 0]) == photo[..., :1]).all()
    assert (pixels(photo[::2, ::-1]) == photo[::2, ::-1]).all()
    assert pixels(np.zeros((3, 56, 3), np.uint8)).shape == (3, 56, 3)


@pytest.mark.parametrize(
    ("array", "code", "hint"),
    [
        (np.zeros((3, 8, 9), np.uint8), "invalid_type", "transpose"),
        (np.zeros((8, 9, 2), np.uint8), "invalid_type", "(8, 9, 2)"),
        (np.zeros((8, 9), np.float32), "invalid_type", "astype"),
        (np.full((8, 9), np.nan), "nonfinite", "NaN"),
        (np.zeros((8, 9), np.uint16), "invalid_type", "uint16"),
        (np.zeros((8, 9), bool), "invalid_type", "bool"),
        (np.zeros((2, 8, 9, 3), np.uint8), "invalid_type", "video"),
        (np.zeros((0, 9, 3), np.uint8), "invalid_type", "(0, 9, 3)"),
        (np.zeros((1, 201, 3), np.uint8), "aspect_ratio", "200"),
        ("picture", "invalid_type", "str"),
    ],
)
def test_other_arrays_are_refused_with_a_hint(array, code, hint):
    found = error(array)
    assert found.code == code and hint in found.detail


def test_a_picture_in_memory_obeys_the_pixel_limit():
    assert error(np.zeros((50, 50, 3), np.uint8), max_pixels=2000).code == "too_many_pixels"
    assert error(PILImage.new("RGB", (50, 50)), max_pixels=2000).code == "too_many_pixels"


# -- bad files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_cut_file_is_an_error_and_never_a_half_grey_picture(kind, share):
    data = files.encode_image(files.photo(200, 150), kind)
    found = error(data[: max(1, int(len(data) * share))])
    assert found.code in {"truncated", "corrupt"} or len(data) * share < 16


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF"])
def test_a_file_cut_in_the_middle_is_called_truncated(kind):
    data = files.encode_image(files.photo(200, 150), kind)
    assert error(data[: len(data) // 2]).code == "truncated"


def test_bytes_behind_the_picture_are_ignored_and_before_it_are_not():
    data = files.encode_image(files.photo())
    assert (pixels(data + b"trailing") == files.photo()).all()
    assert error(b"leading" + data).code == "unsupported_format"


def test_a_bad_checksum_is_corrupt():
    assert error(files.png_with_bad_checksum()).code == "corrupt"


@pytest.mark.parametrize("kind", ["text", "html", "svg", "eps"])
def test_what_is_no_picture_is_refused_by_content(tmp_path, kind):
    path = tmp_path / "picture.png"
    path.write_bytes(files.text_named_as(kind))
    found = error(path)
    assert (found.code, found.source) == ("unsupported_format", "picture.png")


def test_a_pdf_and_a_rare_format_are_refused():
    assert error(files.pdf(1)).code == "unsupported_format"
    assert error(files.encode_image(files.photo(), "PPM")).code == "unsupported_format"
    assert error(files.encode_image(files.photo(), "JPEG2000")).code == "unsupported_format"


def test_huge_pictures_are_refused_from_their_header():
    assert error(files.png_header_only(20_000, 20_000)).code == "too_many_pixels"
    assert error(files.png_header_only(60_000, 60_000)).code == "too_many_pixels"
    assert error(files.png_header_only(12_000, 9_000)).code == "too_many_pixels"
    assert error(files.encode_image(files.photo()), max_pixels=3000).code == "too_many_pixels"


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_a_strip_is_refused(size):
    assert error(files.png_header_only(*size)).code == "aspect_ratio"


def test_nothing_and_too_much_are_refused(tmp_path):
    path = tmp_path / "zero.png"
    path.write_bytes(b"")
    assert error(path).code == "empty"
    assert error(b"").code == "empty"
    assert error(files.encode_image(files.photo()), max_bytes=10).code == "too_large"


def test_no_warning_of_the_library_gets_out():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        palette = PILImage.new("P", (2, 2), 0)
        pixels(files.encode_image(palette, transparency=b"\x00\xff"))
        assert error(files.png_header_only(12_000, 9_000)).code == "too_many_pixels"


# -- files -------------------------------------------------------------------------------------


def test_errors_name_the_file_without_its_folder(tmp_path):
    found = error(tmp_path / "absent.png")
    assert found.code == "not_found"
    assert str(found) == "item (image absent.png): not_found: no such file"
    assert error(b"no picture").source.startswith("bytes:")


def test_folders_pipes_devices_and_loops_are_not_files(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    zero = tmp_path / "zero.png"
    zero.symlink_to("/dev/zero")
    for source in [tmp_path, pipe, loop, zero]:
        assert error(source).code == "not_a_file", source


def test_odd_names_are_not_found_rather_than_a_crash(tmp_path):
    for name in ["a\0b.png", "n" * 300 + ".png", "\udcff.png"]:
        assert error(tmp_path / name).code == "not_found", name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_a_permission_error(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(files.encode_image(files.photo()))
    path.chmod(0)
    assert error(path).code == "permission"


def test_links_do_not_lead_out_of_the_allowed_folders(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "p.png").write_bytes(files.encode_image(files.photo()))
    (inside / "link.png").symlink_to(outside / "p.png")
    roots = {"allowed_roots": (inside,)}
    assert pixels(inside / "p.png", **roots).shape == (48, 64, 3)
    for path in [outside / "p.png", inside / "link.png", inside / ".." / "outside" / "p.png"]:
        assert error(path, **roots).code == "forbidden_path", path
