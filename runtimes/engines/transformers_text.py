"""Text from tokens, piece by piece: no character is cut, and a stop string ends the text before itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Detokenizer:
    """The text of a growing list of tokens.

    A token alone has no text: it may be a part of a character, and a space before it depends on the token
    before. So a few tokens before are decoded with each new one, and only what they add is given out.
    """

    __slots__ = ("_has_special", "_read", "_start", "_tokenizer", "_tokens")

    def __init__(self, tokenizer: Any, *, has_special: bool) -> None:
        """Make an empty text; with `has_special`, special tokens are written out, too."""
        self._tokenizer = tokenizer
        self._has_special = has_special
        self._tokens: list[int] = []
        self._start = 0  # the first token that is decoded again
        self._read = 0  # the first token whose text is not given out yet

    def add(self, tokens: Sequence[int]) -> str:
        """Return what `tokens` add to the text; a character that is not whole yet waits."""
        self._tokens += tokens
        return self._take(is_last=False)

    def end(self) -> str:
        """Return what waited, with U+FFFD for the bytes that are no character."""
        return self._take(is_last=True)

    def _take(self, *, is_last: bool) -> str:
        before = self._decode(self._tokens[self._start : self._read])
        text = self._decode(self._tokens[self._start :])
        if len(text) <= len(before) or (text.endswith(_REPLACEMENT) and not is_last):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return text[len(before) :]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=not self._has_special, clean_up_tokenization_spaces=False
        )
        return text


class StopStrings:
    """The end of a text at the first of some strings, which is not given out itself."""

    __slots__ = ("_held", "_strings", "is_stopped")

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(filter(None, strings))
        self._held = ""
        self.is_stopped = False
        """Whether one of the strings came."""

    def add(self, text: str) -> str:
        """Return what may be given out; the beginning of a stop string is kept back until more is known."""
        if self.is_stopped or not self._strings:
            return "" if self.is_stopped else text
        text = self._held + text
        places = [place for string in self._strings if (place := text.find(string)) >= 0]
        if places:
            self.is_stopped, self._held = True, ""
            return text[: min(places)]
        kept = max(_overlap(text, string) for string in self._strings)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> str:
        """Return what was kept back."""
        held, self._held = self._held, ""
        return held


class TokenTexts:
    """What each token is, for reports of log-probabilities."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._byte_level = _byte_level(tokenizer)

    def text(self, token: int) -> str:
        """Return the token's text, with U+FFFD for bytes that are no characters by themselves."""
        text: str = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text

    def bytes(self, token: int) -> bytes:
        """Return the token's bytes, also where they are a part of a character."""
        text = self.text(token)
        if _REPLACEMENT not in text:
            return text.encode()
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        if all(character in self._byte_level for character in piece):
            return bytes(self._byte_level[character] for character in piece)
        return text.encode()


def _overlap(text: str, string: str) -> int:
    """Return the length of the longest end of `text` that `string`, as a whole longer, begins with."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if string.startswith(text[len(text) - length :]):
            return length
    return 0


def _byte_level(tokenizer: Any) -> dict[str, int]:
    """Return the byte that each character stands for in the tokens of byte-level BPE; else nothing.

    Printable characters of Latin-1 stand for themselves, and the other bytes, in order, for U+0100 and on
    (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019).
    """
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if "ByteLevel" not in repr(decoder):
        return {}
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
