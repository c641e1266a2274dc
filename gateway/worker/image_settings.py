"""What a kit says about the images that its model takes: `model.parameters.image` of its Kitfile."""

from __future__ import annotations

from gateway.codec.predict.image_settings import ImageSettings, UnusableImageSettings
from gateway.kits.kit import Kit
from gateway.kits.parents import model_of

_NAME = "image"


def read_image_settings(kit: Kit) -> ImageSettings | None:
    """Return what a kit says about images, None where it says nothing.

    Raises:
        UnusableImageSettings: when it cannot be read.
    """
    model = model_of(kit)
    value = model.parameters.get(_NAME) if model is not None and isinstance(model.parameters, dict) else None
    if value is None:
        return None
    try:
        return ImageSettings.of(value)
    except UnusableImageSettings as error:
        raise UnusableImageSettings(f"model.parameters.{_NAME} in the Kitfile: {error}") from None
