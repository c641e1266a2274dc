"""Every error Kitserve raises on purpose, drawn once.

    KitserveError
    ├── ConfigError            what a user wrote is wrong; all faults at once
    ├── InvalidReference       a string that names no kit
    ├── RegistryError          a registry or layout could not be used
    │   ├── NotFound           no such tag, digest or repository
    │   ├── Unauthorized       credentials are missing or refused
    │   └── RegistryUnavailable  no answer in time, or a fault on its side
    ├── ContentError           bytes that are not what was promised
    │   ├── DigestMismatch
    │   └── SizeMismatch
    ├── KitError               an artefact that cannot be served
    │   ├── NotAKit            some other artefact (an image, a chart)
    │   ├── InvalidKitfile
    │   ├── UnsafeArchive      an entry that must not be unpacked
    │   ├── UnusableModel      no runtime fits it, or its runtime refuses it
    │   └── NotTrusted         the policy does not let it be served
    ├── StoreError             this node's disk: full, locked, unwritable
    ├── Overload               a call that a worker did not get to
    │   ├── QueueFull          too many calls wait for the model
    │   └── DeadlineExceeded   its time was over before the model began
    ├── EdgeError              HAProxy is missing, refuses its configuration, or died
    └── ControlError           the control plane cannot be reached or did not do what was asked

`runtimes.errors` holds the families of the model side; `UnusableModel` carries them across.
Each message says what happened, to which reference, and what to do.
"""


class KitserveError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(KitserveError):
    """A config that cannot be used; `faults` holds one line for each thing wrong in it."""

    def __init__(self, source: str, faults: list[str]) -> None:
        super().__init__(source, faults)
        self.source = source
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join([f"{self.source}: {len(self.faults)} fault(s)", *(f"  {f}" for f in self.faults)])


class InvalidReference(KitserveError):
    """A string that is not a reference to a kit."""


class RegistryError(KitserveError):
    """A registry or layout that could not be used."""


class NotFound(RegistryError):
    """The registry answers, and has no such tag, digest or repository."""


class Unauthorized(RegistryError):
    """The registry wants credentials, or refuses those it got."""


class RegistryUnavailable(RegistryError):
    """The registry gave no usable answer within the time allowed."""


class ContentError(KitserveError):
    """Bytes that are not what their descriptor promised."""


class DigestMismatch(ContentError):
    """The bytes have another digest."""


class SizeMismatch(ContentError):
    """There are more or fewer bytes than promised."""


class KitError(KitserveError):
    """An artefact that cannot be served."""


class NotAKit(KitError):
    """An artefact of another kind; the message says which."""


class InvalidKitfile(KitError):
    """A Kitfile (config blob) that cannot be understood."""


class UnsafeArchive(KitError):
    """A layer that must not be unpacked, or is damaged as packed; the message names the entry."""


class UnusableModel(KitError):
    """No runtime fits the model, or the one that does refuses it."""


class NotTrusted(KitError):
    """The policy does not let the kit be served; the message names the rule."""


class StoreError(KitserveError):
    """The node's store cannot be written or read."""


class Overload(KitserveError):
    """A call that a worker did not get to."""


class QueueFull(Overload):
    """Too many calls, or too many bytes of them, wait for the model."""


class DeadlineExceeded(Overload):
    """A call's time was over before the model began with it."""


class EdgeError(KitserveError):
    """HAProxy is missing, refuses its configuration, or died."""


class ControlError(KitserveError):
    """The control plane cannot be reached, or did not do what was asked."""


class CannotWake(ControlError):
    """A version that sleeps has no worker, or none in time."""
