"""What messages may carry: text, and images that are in the call itself.

Engines fetch the addresses of images, from wherever they can reach: nothing is passed that they would fetch.
"""

from __future__ import annotations

from typing import Any

from gateway.codec.openai.errors import RefusedCall

_TEXTS = frozenset({"text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text"})
_IMAGES = frozenset({"image_url", "input_image"})
_SYSTEM = frozenset({"system", "developer"})
# What a conversation of the Responses API has besides messages: calls of tools, and what came of them.
_ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})


def check_messages(messages: Any, has_images: bool) -> None:
    """Check the messages of a chat. Raises RefusedCall."""
    if not isinstance(messages, list) or not messages:
        raise RefusedCall("messages must be a list with at least one message", "messages")
    for position, message in enumerate(messages):
        _check_message(message, f"messages[{position}]", has_images)


def check_input(items: Any, has_images: bool) -> None:
    """Check the input of the Responses API: a text, or messages and other items. Raises RefusedCall."""
    if isinstance(items, str):
        return
    if not isinstance(items, list) or not items:
        raise RefusedCall("input must be a string, or a list with at least one item", "input")
    for position, item in enumerate(items):
        name = f"input[{position}]"
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind not in _ITEMS:
            raise RefusedCall(f"{name} must be a message or a call of a function, not {kind!r}", name)
        if kind == "message":
            _check_message(item, name, has_images)
        elif kind == "function_call_output":
            _check_content(item.get("output"), f"{name}.output", has_images)
        else:
            _check_content(item.get("content"), f"{name}.content", has_images)


def has_system_message(messages: Any) -> bool:
    """Whether a conversation, which was checked, has instructions of its caller's."""
    return isinstance(messages, list) and any(message.get("role") in _SYSTEM for message in messages)


def text_size(value: Any) -> int:
    """Return how many characters of text a prompt, a conversation or a part of one has, images left out."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(text_size, value))
    if isinstance(value, dict):
        return sum(text_size(value[name]) for name in ("content", "text", "output") if name in value)
    return 0


def _check_message(message: Any, name: str, has_images: bool) -> None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RefusedCall(f"{name} must be an object with a role", name)
    if message.get("audio") is not None:
        raise RefusedCall(f"{name}.audio is not served: no model here answers with sound", f"{name}.audio")
    _check_content(message.get("content"), f"{name}.content", has_images)


def _check_content(content: Any, name: str, has_images: bool) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise RefusedCall(f"{name} must be a string or a list of parts", name)
    for position, part in enumerate(content):
        _check_part(part, f"{name}[{position}]", has_images)


def _check_part(part: Any, name: str, has_images: bool) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXTS:
        return
    if kind not in _IMAGES:
        raise RefusedCall(f"{name} is not served: its type is {kind!r}", name, "unsupported_parameter")
    if not has_images:
        reason = "this model reads no images, as its kit has no projector"
        raise RefusedCall(f"{name} is not served: {reason}", name, "unsupported_parameter")
    image = part.get("image_url")
    address = image.get("url") if isinstance(image, dict) else image
    if not isinstance(address, str) or not address.startswith("data:"):
        raise RefusedCall(f"{name} must hold the image in a data: URL; no address is fetched", name)
