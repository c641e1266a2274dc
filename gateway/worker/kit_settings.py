"""What a kit says of how its model is served; where that cannot be read, the model is served without it."""

from __future__ import annotations

import logging

from gateway.codec.predict.image_settings import ImageSettings, UnusableImageSettings
from gateway.contract import WorkerSpec
from gateway.kits.kit import Kit
from gateway.kits.library import UnpackedKit
from gateway.worker.image_settings import read_image_settings
from gateway.worker.labels import Labels, UnusableLabels, read_labels

log = logging.getLogger(__name__)


def usable_image_settings(kit: Kit, spec: WorkerSpec) -> ImageSettings | None:
    """Return what the kit says about images; a kit whose settings cannot be read is served without."""
    try:
        return read_image_settings(kit)
    except UnusableImageSettings as error:
        log.warning("image_settings.unusable", extra={**spec.names, "reason": str(error)})
        return None


def usable_labels(kit: UnpackedKit, spec: WorkerSpec) -> Labels:
    """Return the kit's labels; a kit whose labels cannot be read is served without them."""
    try:
        return read_labels(kit)
    except (UnusableLabels, OSError) as error:
        log.warning("labels.unusable", extra={**spec.names, "reason": str(error)})
        return {}
