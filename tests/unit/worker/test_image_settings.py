"""What a Kitfile says about images."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.codec.predict.image_settings import ImageSettings, UnusableImageSettings
from gateway.kits.kitfile import Model
from gateway.worker.image_settings import image_settings_of


@pytest.mark.parametrize("parameters", [None, [], "x", {}, {"image": None}, {"labels": ["a"]}])
def test_a_kit_may_say_nothing(parameters: Any) -> None:
    assert image_settings_of(Model.model_validate({"parameters": parameters})) is None


def test_a_kit_says_how_an_image_becomes_a_tensor() -> None:
    image = {
        "size": [224, 192],
        "channels": "BGR",
        "layout": "NHWC",
        "scale": 0.5,
        "mean": [1, 2, 3],
        "std": 2,
        "resize": "pad",
    }
    settings = image_settings_of(Model.model_validate({"parameters": {"image": image}}))
    assert settings == ImageSettings((224, 192), "BGR", "NHWC", 0.5, (1.0, 2.0, 3.0), (2.0,), "pad")


def test_what_is_wrong_names_its_place() -> None:
    with pytest.raises(UnusableImageSettings, match=r"^model\.parameters\.image in the Kitfile: scale"):
        image_settings_of(Model.model_validate({"parameters": {"image": {"scale": "x"}}}))
