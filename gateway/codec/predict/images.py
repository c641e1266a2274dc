"""An image becomes the tensor of a model that takes one: turned upright, resized, its channels and scale set.

What the shape of the input does not say, the Kitfile does, as `model.parameters.image`. Only PNG and JPEG are
read, and none with more pixels than `MAX_PIXELS`.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gateway.codec.predict.image_settings import CHANNELS, ImageSettings
from gateway.foreign_text import foreign_text
from gateway.wording import counted
from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""The largest image, before it is resized; decoded, each pixel takes four bytes."""
_MAX_SIDE = 65_535
_MAX_TENSOR_BYTES = 256 * 1024 * 1024
# A decoder goes over the whole image for each scan of a progressive JPEG, and those in use have ten.
_MAX_SCANS = 50
_SCAN = b"\xff\xda"
# How often Pillow may read of a body: some times for each chunk or segment, and once for each 64 KiB.
_MAX_READS = 100_000
_ADVICE = "say it in the Kitfile: model.parameters.image"


class ImageReader:
    """Reads images for one model."""

    def __init__(self, signature: Signature, settings: ImageSettings | None) -> None:
        self._settings = settings or ImageSettings()
        self.fault = ""
        """Why the model takes no image, "" where it takes one."""
        try:
            self._target = _target(signature, self._settings)
        except InputError as error:
            self.fault = str(error)

    def __call__(self, body: bytes | memoryview) -> dict[str, Array]:
        """Return the input of a call with one image.

        Raises:
            InputError: where the model takes no image, or the body is none, or a too large one.
        """
        if self.fault:
            raise InputError(self.fault)
        target, settings = self._target, self._settings
        image = _decoded(body, target.channels, target.max_pixels)
        pixels = np.asarray(_resized(image, target.size, settings.resize))
        if target.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        if pixels.ndim == 2 and target.has_channels:
            pixels = pixels[:, :, np.newaxis]
        values: Array = pixels
        if target.datatype is not Datatype.UINT8:
            values = pixels.astype(np.float32)
            values *= np.float32(settings.scale or 0)
            if settings.mean is not None:
                values -= np.array(settings.mean, np.float32)
            if settings.std is not None:
                values /= np.array(settings.std, np.float32)
            values = values.astype(target.datatype.numpy, copy=False)
        if target.is_channels_first:
            values = values.transpose(2, 0, 1)
        if target.has_batch:
            values = values[np.newaxis]
        return {target.name: np.ascontiguousarray(values)}


def takes_images(signature: Signature, settings: ImageSettings | None) -> bool:
    """Tell whether a call on a model may be an image."""
    return not ImageReader(signature, settings).fault


@dataclass(frozen=True, slots=True)
class _Target:
    """The tensor that an image is to become."""

    name: str
    datatype: Datatype
    size: tuple[int, int] | None
    """Height and width; None: as the image has it."""
    channels: str
    is_channels_first: bool
    has_channels: bool
    has_batch: bool

    @property
    def max_pixels(self) -> int:
        """The largest image that is read; where it is not resized, its tensor is bounded."""
        if self.size is not None:
            return MAX_PIXELS
        return min(MAX_PIXELS, _MAX_TENSOR_BYTES // (CHANNELS[self.channels] * self.datatype.numpy.itemsize))


def _target(signature: Signature, settings: ImageSettings) -> _Target:
    """Return what an image is to become. Raises InputError where the model takes none."""
    if len(signature.inputs) != 1:
        raise InputError(f"the model takes {counted(len(signature.inputs), 'input')}, and no image alone")
    (spec,) = signature.inputs
    datatype = spec.usual
    if datatype is not Datatype.UINT8 and datatype.numpy.kind not in "fV":
        raise InputError(f"the model takes no image: input {spec.name!r} is {datatype}")
    where = f"input {spec.name!r}"
    has_batch, channel_axis, shape = _axes(spec, settings)
    axes = list(shape[1:] if has_batch else shape)
    count = axes.pop(channel_axis) if channel_axis is not None else 1
    height, width = axes
    channels = settings.channels or {1: "L", 3: "RGB"}.get(count)
    if channels is None:
        raise InputError(f"{where} does not say how many channels an image has; {_ADVICE}.channels")
    if count not in (-1, CHANNELS[channels]):
        raise InputError(
            f"the Kitfile says that an image is {channels}, but {spec.name!r} has {counted(count, 'channel')}"
        )
    size = settings.size
    if height > 0 and width > 0:
        if size not in (None, (height, width)):
            raise InputError(
                f"the Kitfile says that an image is {size}, but {spec.name!r} is {height, width}"
            )
        size = height, width
    elif height != width and size is None:
        raise InputError(f"{where} has one side of any length; {_ADVICE}.size")
    if size is not None and math.prod(size) > MAX_PIXELS:
        raise InputError(f"the model takes no image: {list(size)} are more than {MAX_PIXELS} pixels")
    normal = (settings.scale, settings.mean, settings.std)
    if datatype is not Datatype.UINT8 and settings.scale is None:
        raise InputError(
            f"{where} is {datatype}, and nothing says what a pixel of 0 to 255 is there; "
            f"{_ADVICE}.scale, such as 0.00392156862745098 (and mean, std)"
        )
    if datatype is Datatype.UINT8 and any(value is not None for value in normal):
        raise InputError(f"{where} is UINT8, but the Kitfile scales images; leave that out")
    for name, numbers in (("mean", settings.mean), ("std", settings.std)):
        if numbers is not None and len(numbers) not in (1, CHANNELS[channels]):
            raise InputError(f"the Kitfile's {name} has {counted(len(numbers), 'number')}, for {channels}")
    is_first = channel_axis == 0
    return _Target(spec.name, datatype, size, channels, is_first, channel_axis is not None, has_batch)


def _axes(spec: TensorSpec, settings: ImageSettings) -> tuple[bool, int | None, tuple[int, ...]]:
    """Return whether there is a batch axis, which of the others has the channels, and the shape."""
    shape, where = spec.shape or spec.likely_shape, f"input {spec.name!r}"
    if shape is None:
        if settings.layout is None:
            raise InputError(f"{where} does not say its shape; {_ADVICE}.layout")
        return True, 0 if settings.layout == "NCHW" else 2, (-1, -1, -1, -1)
    rank = len(shape)
    if rank not in (3, 4):
        raise InputError(f"the model takes no image: input {spec.name!r} has {rank} axes")
    if rank == 4 and shape[0] not in (-1, 1):
        raise InputError(f"the model takes {shape[0]} images in a call, and no single one")
    axes = shape[1:] if rank == 4 else shape
    first, last = axes[0] in (1, 3), axes[2] in (1, 3)
    if settings.layout is not None:
        axis = 0 if settings.layout == "NCHW" else 2
        if axes[axis] not in (-1, 1, 3):
            raise InputError(
                f"the Kitfile says that an image is {settings.layout}, but {where} is {list(shape)}"
            )
        return rank == 4, axis, shape
    if first != last:
        return rank == 4, 0 if first else 2, shape
    if rank == 3 and shape[0] == -1 and not last:
        return True, None, shape
    raise InputError(
        f"the shape of input {spec.name!r}, {list(shape)}, is none of an image; {_ADVICE}.layout"
    )


def _decoded(body: bytes | memoryview, channels: str, max_pixels: int) -> Image:
    """Return an image, upright, in RGB or grey. Raises InputError."""
    # Workers of other models need none of it.
    from PIL import Image, ImageOps, UnidentifiedImageError

    if bytes(body).count(_SCAN) > _MAX_SCANS and body[:1] == b"\xff":
        raise InputError(f"the image has more than {_MAX_SCANS} scans; save it again")
    try:
        image = Image.open(_Body(body), formats=("PNG", "JPEG"))
        _check_size(image, max_pixels)
        image.load()
        # No copy is kept of an image that may have 200 MB.
        ImageOps.exif_transpose(image, in_place=True)
        upright: Image.Image = image
        if upright.mode.startswith("I"):
            # Pillow cuts 16 bits off at 255, where the higher 8 are meant.
            grey = np.asarray(upright) >> 8
            upright = Image.fromarray(grey.clip(0, 255, out=grey).astype(np.uint8))
        mode = "L" if channels == "L" else "RGB"
        return upright if upright.mode == mode else upright.convert(mode)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError("the body is no PNG or JPEG") from None
    except Exception as error:  # each format of Pillow has errors of its own
        raise InputError(f"the body is no PNG or JPEG that can be read: {foreign_text(error)}") from None


def _check_size(image: Image, max_pixels: int) -> None:
    """Raise InputError where an image that is not decoded yet has too many pixels."""
    if image.width * image.height > max_pixels or max(image.size) > _MAX_SIDE:
        raise InputError(
            f"the image has {image.width} x {image.height} pixels; {max_pixels} are the most that is read, "
            f"and {_MAX_SIDE} on a side"
        )


class _Body(io.BytesIO):
    """A body that is read a bounded number of times; each of a million empty chunks would take its time."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does. Raises InputError once it was read too often."""
        self.reads += 1
        if self.reads > _MAX_READS:
            raise InputError("the image is in too many pieces; save it again")
        return super().read(size)


def _resized(image: Image, size: tuple[int, int] | None, way: str) -> Image:
    """Return an image of this height and width."""
    from PIL import Image, ImageOps

    if size is None or (image.height, image.width) == size:
        return image
    target, filter_ = (size[1], size[0]), Image.Resampling.BILINEAR
    if way == "crop":
        return ImageOps.fit(image, target, filter_)
    if way == "pad":
        return ImageOps.pad(image, target, filter_)
    return image.resize(target, filter_)
