"""Any image as upright RGB: the one conversion behind readers, processor, diagnostics, --ask and the lmms-eval plug-in.

    orientation      as EXIF or XMP says; what a viewer shows
    transparency     alpha channel, transparent palette entry or colour: over white, as in Qwen-VL's own loader
    16 bits          grey values v become v / 257
    32 bits, float   refused, because the range is unknown
    other modes      grey, 1 bit, palette, CMYK, YCbCr, HSV: as PIL converts them

Files are opened with an explicit list of formats, so that no file is given to Ghostscript, and no pipe or device is read.
"""

from __future__ import annotations

import binascii
import io
import os
import re
import warnings
from base64 import b64decode
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
from PIL import Image

FORMATS: Final = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are read, as PIL names them; AVIF where PIL has it."""
MAX_PIXELS: Final = 89_478_485
"""Largest image that is decoded [pixels]: where PIL begins to warn of a decompression bomb. 8K has 33 million."""
MAX_BYTES: Final = 1 << 29
"""Largest image file that is opened [bytes]; an uncompressed image of `MAX_PIXELS` has half of it."""
FETCH_TIMEOUT: Final = 30.0
"""Longest wait for an image's address [s]."""
MAX_PATH: Final = 4096
MIN_BASE64: Final = 64
"""A longer text is no path; a shorter one is no image in base64 [characters]."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_ORIENTATION: Final = 0x112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ADVICE: Final = "replace the file or leave the question out"


def to_rgb(image: Any, place: str = "image") -> Image.Image:
    """The image in mode RGB, by the rules at the top of this module; an upright RGB image is returned as it is.

    Args:
        image: a PIL image.
        place: record and file, for messages.

    Raises:
        ValueError: if it is no PIL image, cannot be read, or has pixels of an unknown range.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"{place}: expected a PIL image, got {type(image).__name__}; open it with PIL.Image.open or Image.fromarray"
        )
    if 0 in image.size:
        raise ValueError(f"{place} has no pixels ({image.width} x {image.height}); {_ADVICE}")
    try:
        image.load()  # TIFF files turn themselves here
        rgb, turn = _without_alpha(image), _TURNS.get(_orientation(image))
        rgb = rgb if turn is None else rgb.transpose(turn)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise nearly everything in PIL: struct.error, IndexError, ...
        raise ValueError(f"{place} cannot be read ({error}); {_ADVICE}") from error
    if rgb is not image:
        rgb.info = {}  # a second conversion must not turn it again
    return rgb


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; None where there is none or EXIF is damaged, which viewers ignore too."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:
        return None


def _without_alpha(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}):  # by PIL's version
        return _from_16_bits(image)
    if image.mode in {"I", "F"}:
        raise ValueError(f"mode {image.mode} has no known range of values: scale the pixels to 8 bits, 0 to 255")
    if image.mode in {"RGBa", "La"}:
        image = image.convert(image.mode.upper())
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint16)
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def decode_image(data: Any, place: str) -> Image.Image:
    """The image in encoded bytes (PNG, JPEG, ...), fully loaded, as `to_rgb` converts it.

    Args:
        data: what should be the bytes.
        place: record and file, for messages: ``record '3' of a.parquet: image``.

    Raises:
        ValueError: if there are no bytes, they are damaged or of another format, or the image has more than `MAX_PIXELS`
            pixels.
    """
    if not isinstance(data, bytes | bytearray):
        raise ValueError(
            f"{place}: expected the bytes of an image, got {type(data).__name__}; "
            "export the data set with embedded images"
        )
    return _decode(io.BytesIO(data), place)


def decode_base64(text: Any, place: str) -> Image.Image:
    """The image in a base64 text, as `decode_image` gives it.

    Raises:
        ValueError: if the text is no base64, or as in `decode_image`.
    """
    if not isinstance(text, str) or not text:
        shown = repr(text)[:60]
        raise ValueError(f"{place}: expected an image as base64 text, got {shown}; download the file again")
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{place} is not valid base64 ({error}); download the file again") from error
    return decode_image(data, place)


def path_inside(root: Path, name: str, place: str) -> Path:
    """Where a record's file lies below ``root``; symbolic links are followed later, as caches and data sets are made of them.

    Raises:
        ValueError: for a path that leads out of ``root``.
    """
    if Path(name).is_absolute() or Path(os.path.normpath(name)).parts[:1] == (os.pardir,):
        raise ValueError(
            f"{place}: expected a path inside {root}, got {name:.200}, which leads out of it; move the file there, or allow "
            "such paths with data.outside (a file of questions)"
        )
    return root / name


def read_image(path: Path, place: str) -> Image.Image:
    """The image in a file, as `decode_image` gives it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a pipe or a device, which is not opened, or as in `decode_image`.
    """
    try:
        if not path.exists() or path.is_dir():
            raise FileNotFoundError(
                f"{place}: expected the image {path}, found no such file; download the images or correct their folder"
            )
        if not path.is_file():
            raise ValueError(
                f"{place}: expected an image file, got {path}, a pipe or a device; copy the image to a file"
            )
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(
                f"{place}: {path} has {size:,} bytes, expected at most {MAX_BYTES:,}; shrink the image first"
            )
        with path.open("rb") as file:
            return _decode(file, f"{place}: {path}")
    except FileNotFoundError:
        raise
    except OSError as error:  # no permission, a name that is too long, a disk that fails
        raise ValueError(f"{place}: the image {path!s:.200} cannot be read ({error.strerror}); {_ADVICE}") from error


def load_image(value: Any, place: str = "image") -> Any:
    """An image as chat messages and processors may give it, as `to_rgb` converts it.

    Args:
        value: a PIL image; encoded bytes; a path or ``file://`` address; a ``http`` address, which is fetched; base64 text or a
            ``data:`` address; an array or tensor of 8-bit values, which the image processor takes as it is, grey ones as RGB.
        place: for messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ConnectionError: if an address does not answer.
        ValueError: for anything else, as in `to_rgb` and `decode_image`.
    """
    if isinstance(value, Path):
        return read_image(value, place)
    if isinstance(value, str):
        return _from_text(value, place)
    if isinstance(value, bytes | bytearray):
        return decode_image(value, place)
    kind = str(getattr(value, "dtype", ""))
    if not kind:
        return to_rgb(value, place)
    shape = tuple(value.shape)
    coloured = len(shape) == 2 or (len(shape) == 3 and {shape[0], shape[-1]} & {1, 3, 4})
    if kind.rpartition(".")[2] != "uint8" or not coloured or 0 in shape:
        raise ValueError(
            f"{place}: expected an array of 8-bit values (height, width, 3), got {kind} {shape}; scale the pixels to 0 to "
            "255, convert them to uint8 and give every image pixels"
        )
    return to_rgb(Image.fromarray(np.asarray(value)), place) if value.ndim == 2 else value


def _from_text(text: str, place: str) -> Image.Image:
    scheme, _, rest = text.partition(":")
    if scheme in ("http", "https"):
        import httpx

        try:
            reply = httpx.get(text, follow_redirects=True, timeout=FETCH_TIMEOUT).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConnectionError(
                f"{place}: {text:.200} cannot be fetched ({error}); save the image as a file"
            ) from error
        return decode_image(reply.content, place)
    if scheme == "data":
        return decode_base64(rest.partition("base64,")[2], place)
    if scheme == "file":
        return read_image(Path(url2pathname(urlparse(text).path)), place)
    if len(text) > MAX_PATH or (not Path(text).exists() and len(text) > MIN_BASE64 and _BASE64.fullmatch(text)):
        return decode_base64("".join(text.split()), place)
    return read_image(Path(text), place)


def _decode(file: IO[bytes], place: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()
            image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{place}: an image too large to decode ({error}); expected at most {MAX_PIXELS:,} pixels; shrink it first"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{place} cannot be read (expected one of {', '.join(FORMATS)}, got none of them); convert or {_ADVICE}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged header: as in `to_rgb`
        raise ValueError(f"{place} cannot be read ({error}); {_ADVICE}") from error
    return to_rgb(image, place)
