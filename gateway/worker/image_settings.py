"""What a kit says about the images that its model takes: `model.parameters.image` of its Kitfile."""

from __future__ import annotations

from gateway.codec.predict.image_settings import ImageSettings, UnusableImageSettings
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Model
from gateway.kits.parents import model_of

_NAME = "image"


def read_image_settings(kit: Kit) -> ImageSettings | None:
    """Return what a kit says about images, None where it says nothing.

    Raises:
        UnusableImageSettings: when it cannot be read.
    """
    model = model_of(kit)
    return None if model is None else image_settings_of(model)


def image_settings_of(model: Model) -> ImageSettings | None:
    """Return what a Kitfile's model says about images; see `read_image_settings`."""
    value = model.parameter(_NAME)
    if value is None:
        return None
    try:
        return ImageSettings.of(value)
    except UnusableImageSettings as error:
        raise UnusableImageSettings(f"model.parameters.{_NAME} in the Kitfile: {error}") from None
