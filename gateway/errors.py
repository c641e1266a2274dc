"""The errors that Kitserve raises on purpose.

    KitserveError
    ├── ConfigError            a config that cannot be used; all its faults at once
    ├── InvalidReference       a string that names no kit
    ├── RegistryError          a registry or layout could not be used
    │   ├── NotFound           no such tag, digest or repository
    │   ├── Unauthorized       credentials are missing or refused
    │   └── RegistryUnavailable  no usable answer in time
    ├── ContentError           bytes that are not what their descriptor states
    │   ├── DigestMismatch
    │   └── SizeMismatch
    ├── KitError               an artifact that cannot be served
    │   ├── NotAKit            another kind of artifact (an image, a chart)
    │   ├── InvalidKitfile
    │   ├── UnsafeArchive      a layer that must not be unpacked
    │   ├── UnusableModel      no runtime fits it, or its runtime refuses it
    │   └── NotTrusted         the policy does not allow it
    ├── StoreError             this node's disk: full, locked, unwritable
    ├── NoMemory               this node lacks the memory that a model needs
    ├── Overload               a call that the model did not begin with
    │   ├── QueueFull          too many calls wait for the model
    │   ├── DeadlineExceeded   its deadline passed before the model began
    │   ├── RefusedBody        several workers ended with the same body
    │   └── Replaced           its worker is ended, and another one starts
    ├── Overrun                a call that the model still computed when its time was over
    ├── EdgeError              HAProxy is missing, refuses its configuration, or died
    └── ControlError           the control plane cannot be reached, or did not do what it was asked to
        └── CannotWake         a sleeping version has no worker in time

The errors of runtimes are in `runtimes.errors`; those about a kit's model are raised as `UnusableModel`. Each
message says what happened, to which reference, and what to do; whatever text of others is in it, `str` gives
one printable line of bounded length.

Some errors may pass with nothing changed here: a registry comes back, a tag is pushed, a password is mended,
a disk or the memory has room again. `may_pass` of the class says so; what raised them is worth another try.
"""

from typing import ClassVar

from gateway.foreign_text import foreign_text, message_text
from gateway.wording import counted


class KitserveError(Exception):
    """The base of every error that Kitserve raises on purpose."""

    may_pass: ClassVar[bool] = False

    def __str__(self) -> str:
        return message_text(super().__str__())


class ConfigError(KitserveError):
    """A config that cannot be used; `faults` has a line for each thing that is wrong in it.

    `advice` is one line more on what to do about all of them.
    """

    def __init__(self, source: str, faults: list[str], advice: str = "") -> None:
        super().__init__(source, faults, advice)
        self.source = source
        self.faults = faults
        self.advice = advice

    def __str__(self) -> str:
        lines = [*self.faults, *([self.advice] if self.advice else [])]
        return "\n".join(
            [f"{self.source}: {counted(len(self.faults), 'fault')}", *(f"  {line}" for line in lines)]
        )


class InvalidReference(KitserveError):
    """A string that is not a reference to a kit."""


class RegistryError(KitserveError):
    """A registry or layout that could not be used."""

    may_pass = True


class NotFound(RegistryError):
    """The registry answers, and has no such tag, digest or repository."""


class Unauthorized(RegistryError):
    """The registry requires credentials, or refuses those that it got."""


class RegistryUnavailable(RegistryError):
    """The registry gave no usable answer in time.

    `away_host` is the registry's host where it gives none to anybody: it cannot be reached, is overloaded,
    or refuses more requests. `retry_after` is how many seconds it asks to wait, 0 where it asks for nothing.
    """

    def __init__(self, message: str, *, away_host: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.away_host = away_host
        self.retry_after = retry_after


class ContentError(KitserveError):
    """Bytes that are not what their descriptor states."""


class DigestMismatch(ContentError):
    """The bytes have another digest."""


class SizeMismatch(ContentError):
    """There are more or fewer bytes than the descriptor states."""


class KitError(KitserveError):
    """An artifact that cannot be served."""


class NotAKit(KitError):
    """An artifact of another kind; the message says which."""


class InvalidKitfile(KitError):
    """A Kitfile that is broken, or contradicts the manifest."""


class UnsafeArchive(KitError):
    """A layer that must not be unpacked, or was packed damaged; the message names the entry."""


class UnusableModel(KitError):
    """No runtime fits the model, or the one that does refuses it."""


class NotTrusted(KitError):
    """The policy does not allow the kit; the message names the rule."""


class StoreError(KitserveError):
    """The node's store cannot be written or read."""

    may_pass = True


class NoMemory(KitserveError):
    """The node has not so much memory free as a model needs; the message has the arithmetic."""

    may_pass = True


class Overload(KitserveError):
    """A call that the model did not begin with."""


class QueueFull(Overload):
    """Too many calls, or too many bytes of them, wait for the model."""


class DeadlineExceeded(Overload):
    """The deadline of a call passed before the model began with it."""


class RefusedBody(Overload):
    """Several workers ended while they worked on the same body, so that no more are given it for a while."""


class Replaced(Overload):
    """The worker is ended, and another one starts in its place."""


class Overrun(KitserveError):
    """A call that the model still computed when its time was over; it was ended."""


class EdgeError(KitserveError):
    """HAProxy is missing, refuses its configuration, or died."""


class ControlError(KitserveError):
    """The control plane cannot be reached, or did not do what it was asked to."""


class CannotWake(ControlError):
    """A sleeping version has no worker in time."""


def reason_of(error: BaseException) -> str:
    """Return what a person is told of an error: its own words, with its type where these may say little."""
    return str(error) if isinstance(error, KitserveError) else foreign_text(_with_type(error))


def _with_type(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
