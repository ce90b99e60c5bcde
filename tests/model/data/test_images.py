"""Any image becomes upright RGB in one way, wherever it comes from."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from amvl_model.data.images import FORMATS, decode_image, load_image, read_image, to_rgb
from amvl_model.data.readers.question_files import QuestionFile, write_questions
from amvl_model.data.schema import VisualQuestion, question_from_blink
from amvl_model.evaluation import question_batches
from amvl_model.evaluation.lmms_eval_plugin.requests import as_image
from amvl_model.studies import main_job
from tests import helpers

Image.init()
UPRIGHT = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def every_way(data: bytes, folder: Path) -> dict[str, Image.Image]:
    """The image of a file through every door of the package."""
    path = folder / "image"
    path.write_bytes(data)
    record = {"idx": "1", "choices": ["a", "b"], "answer": "(A)", "question": "q", "prompt": "p", "sub_task": "t"}
    return {
        "reader": decode_image(data, "here"),
        "file": read_image(path, "here"),
        "ask": main_job._open(str(path)),
        "plug-in, PIL": as_image(Image.open(path), "q"),
        "plug-in, cell": as_image({"bytes": data}, "q"),
        "BLINK": question_from_blink(record | {"image_1": Image.open(path)}).images[0],
        "twice": to_rgb(to_rgb(Image.open(path))),
    }


def through_processor(image: Image.Image) -> Any:
    question = VisualQuestion(id="q", images=(image,), prompt="p", answer_text="x")
    return helpers.processor().encode(question)["pixel_values"]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once_by_every_door(orientation: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(UPRIGHT, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    for name, result in every_way(data, tmp_path).items():
        assert (result.size, result.tobytes()) == (expected.size, expected.tobytes()), name
    assert bool((through_processor(Image.open(io.BytesIO(data))) == through_processor(expected)).all())


COLOURS = Image.new("P", (8, 8), 1)
COLOURS.putpalette([200, 0, 0, 10, 20, 30, 0, 0, 90])
TRANSPARENT = {
    "RGBA": (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), {}),
    "LA": (Image.new("LA", (8, 8), (0, 0)), {}),
    "palette entry": (COLOURS, {"transparency": 1}),
    "palette table": (COLOURS, {"transparency": bytes([255, 0])}),
    "colour": (Image.new("RGB", (8, 8), (1, 2, 3)), {"transparency": (1, 2, 3)}),
    "grey": (Image.new("L", (8, 8), 7), {"transparency": 7}),
    "16 bits": (Image.fromarray(np.full((8, 8), 700, np.uint16)), {"transparency": 700}),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_becomes_white_by_every_door(name: str, tmp_path: Path) -> None:
    image, options = TRANSPARENT[name]
    data = encoded(image, **options)
    for way, result in every_way(data, tmp_path).items():
        assert result.getpixel((4, 4)) == (255, 255, 255), way
    assert bool(
        (through_processor(Image.open(io.BytesIO(data))) == through_processor(Image.new("RGB", (8, 8), "white"))).all()
    )


def test_premultiplied_alpha_becomes_white() -> None:
    assert to_rgb(Image.new("RGBA", (2, 2), (9, 9, 9, 0)).convert("RGBa")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_images_are_scaled(kind: str, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for way, result in every_way(encoded(Image.fromarray(values), kind), tmp_path).items():
        assert np.abs(np.asarray(result)[..., 0] - values / 257).max() <= 0.5, way


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"record 3 cannot be read .mode {mode} .*scale the pixels to 8 bits"):
        to_rgb(Image.new(mode, (4, 4)), "record 3")
    with pytest.raises(ValueError, match="here: expected a PIL image, got ndarray"):
        to_rgb(np.zeros((4, 4, 3)), "here")


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_modes_are_converted_as_pil_does(mode: str) -> None:
    image = UPRIGHT.convert("RGB").convert(mode)
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()


def test_damaged_exif_is_ignored() -> None:
    data = encoded(UPRIGHT, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decode_image(data, "here").tobytes() == UPRIGHT.tobytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("MPO", "DIB") and kind in Image.SAVE])
def test_damaged_files_of_every_format_are_refused_with_their_place(kind: str) -> None:
    rng, whole = np.random.default_rng(0), encoded(UPRIGHT, kind)
    for _ in range(60):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole)))])
        for place in rng.integers(0, min(len(damaged), 200), 4):
            damaged[place] = int(rng.integers(0, 256))
        try:
            assert decode_image(bytes(damaged), "record 3").mode == "RGB"
        except ValueError as error:
            assert str(error).startswith("record 3")


def test_formats_for_ghostscript_are_not_opened() -> None:
    assert "EPS" not in FORMATS
    with pytest.raises(ValueError, match="here cannot be read .expected one of PNG, JPEG"):
        decode_image(encoded(UPRIGHT, "EPS"), "here")


def test_no_pipe_and_no_device_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(ValueError, match=f"{name}, a pipe or a device"):
            read_image(tmp_path / name, "line 1")


def test_an_image_that_the_system_does_not_read_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"^record 1: the image .* cannot be read \(File name too long\)"):
        read_image(tmp_path / ("a" * 300), "record 1")
    (tmp_path / "a.png").write_bytes(b"")

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(Permission denied\)"):
        read_image(tmp_path / "a.png", "record 1")


@pytest.mark.parametrize("shape", [(0, 56, 3), (56, 0), (56, 56, 2), (3,), (2, 2, 2, 2)])
def test_arrays_that_are_no_image_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image 2: expected an array of 8-bit values \(height, width, 3\), got uint8"):
        load_image(np.zeros(shape, np.uint8), "image 2")


def test_written_questions_are_upright_and_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    image = Image.open(io.BytesIO(encoded(UPRIGHT, exif=exif)))
    file = write_questions(
        [VisualQuestion(id="a", images=(image, UPRIGHT.convert("CMYK")), prompt="p", answer_text="x")], tmp_path
    )
    assert [item.size for item in QuestionFile(file)[0].images] == [(40, 60), (60, 40)]


def test_an_image_is_loaded_from_every_form_that_a_message_may_have(tmp_path: Path) -> None:
    path, data = tmp_path / "a image.png", encoded(UPRIGHT)
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    wrapped = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    for form in (UPRIGHT, data, path, str(path), path.as_uri(), text, wrapped, f"data:image/png;base64,{text}"):
        assert np.array_equal(np.asarray(load_image(form)), np.asarray(UPRIGHT))
    array = np.asarray(UPRIGHT)
    assert load_image(array) is array
    assert load_image(array[:, :, 0]).mode == "RGB"  # grey values have no channels
    for wrong, message in (
        (array / 255, "8-bit values"),
        (array[None], "8-bit values"),
        (3, "expected a PIL image, got int"),
        ("data:image/png;base64,%%", "not valid base64"),
        ("A" * 100, "cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            load_image(wrong)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_image("missing.png")
    with pytest.raises(ConnectionError, match="cannot be fetched"):
        load_image("http://127.0.0.1:9/a.png")


def test_windows_of_large_images_are_short_and_small_ones_keep_16_batches() -> None:
    def batches(side: int) -> list[list[int]]:
        image = Image.new("1", (side, side))
        question = VisualQuestion(id="q", images=(image,), prompt="p", answer_text="x")
        alive: list[int] = []
        result = []

        def read(place: int) -> VisualQuestion:
            alive.append(place)
            return question

        for chosen, _ in question_batches.sorted_batches(range(40), read, lambda _: 0, 2):
            result.append(chosen)
            largest.append(len(alive) - 2 * (len(result) - 1))
        return result

    largest: list[int] = []
    assert batches(8) == [[2 * i, 2 * i + 1] for i in range(20)]
    assert max(largest) == 32
    largest.clear()
    assert batches(3464) == [[2 * i, 2 * i + 1] for i in range(20)]
    assert max(largest) == 4
