"""The kit of a `kitserve run`: pulled, verified and judged before anything is started, with advice."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.kits import say_wait, wanted_reference
from gateway.cli.options import err
from gateway.cli.progress import PullProgress
from gateway.config.names import MODEL_NAME, STATISTICS
from gateway.errors import InvalidReference, KitError, NotFound, Unauthorized, UnusableModel
from gateway.kits.library import Kit, Library, cache_directory
from gateway.kits.policy import ANYTHING, Policy
from gateway.kits.trust import code_advice
from gateway.oci.options import SourceOptions
from gateway.oci.reference import Digest, LayoutReference, Reference, RegistryReference
from runtimes.extras import install_command

_NAME = "model"
"""What a model is called whose reference has no name that would do."""
_CONFIG_FILES = (".yaml", ".yml", ".json")
_LAYOUT_FILE = "oci-layout"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asks for: a reference as it was written, and which file of its kit, by which runtime."""

    text: str
    reference: Reference
    runtime: str | None = None
    file: str | None = None
    may_run_code: bool = False

    @property
    def name(self) -> str:
        """What the model is called where nobody says it: the last part of its kit's name."""
        reference = self.reference
        name = reference.name if isinstance(reference, LayoutReference) else reference.repository
        last = name.rpartition("/")[2]
        return last if MODEL_NAME.fullmatch(last) and last != STATISTICS else _NAME


def wanted(
    text: str,
    variant: list[str] | None,
    *,
    runtime: str | None = None,
    file: str | None = None,
    may_run_code: bool = False,
) -> Wanted:
    """Read what a person asks for.

    Raises:
        InvalidReference: when the text is no reference; with advice where it is a path.
    """
    try:
        reference = wanted_reference(text, variant)
    except InvalidReference as error:
        raise InvalidReference(f"{error}{_advice_on_path(text)}") from None
    return Wanted(text, reference, runtime, file, may_run_code)


def pull_wanted(wanted: Wanted, sources: SourceOptions, home: Path) -> Kit:
    """Pull and verify a kit, and find out whether it can be served, which needs no engine.

    Args:
        wanted: the kit, and how it is to be served.
        sources: how registries are reached.
        home: the directory whose cache gets it.

    Raises:
        RegistryError: when it cannot be pulled.
        KitError: when it cannot be served; with the command that installs what it needs.
    """
    # Imported here, because the runtimes come with it.
    from gateway.kits.examination import examine

    library = Library(cache_directory(home), sources, None, say_wait)
    try:
        kit = library.describe(wanted.reference)
    except NotFound as error:
        raise NotFound(f"no such kit: {error}{_advice_on_path(wanted.text)}") from error
    except Unauthorized as error:
        raise Unauthorized(f"pull access denied: {error}{_login_advice(wanted.reference)}") from error
    policy = Policy(code_digests=code_digests(kit)) if wanted.may_run_code else ANYTHING
    with PullProgress(err, wanted.text) as progress:
        try:
            examined = examine(
                library, kit, policy, runtime=wanted.runtime, file=wanted.file, progress=progress
            )
        except KitError as error:
            raise type(error)(f"{error.args[0]}{_code_advice(error, kit)}") from error
    if extras := examined.missing_extras(examined.pickle()):
        raise UnusableModel(_extras_advice(wanted.text, extras))
    if not examined.unpacked.from_cache:
        err.print(
            f"{kit.reference}: {examined.unpacked.pulled_bytes} bytes pulled, all verified", markup=False
        )
    return examined.unpacked.kit


def code_digests(kit: Kit) -> tuple[Digest, ...]:
    """Return the digests of a kit and its parents, by which they alone may run code."""
    return tuple(link.digest for link in kit.chain)


def _advice_on_path(text: str) -> str:
    """Return what to write in place of a path, as the rest of a sentence; "" where the text is none."""
    path = Path(text)
    if path.suffix in _CONFIG_FILES and path.is_file():
        return f"; {text} is a file: a config is served by `kitserve serve {text}`"
    if (path / _LAYOUT_FILE).is_file():
        return f"; {text} is an OCI layout: write oci-layout:{text}:NAME:TAG"
    return ""


def _login_advice(reference: Reference) -> str:
    """Return how a person logs in, as the rest of a sentence."""
    if not isinstance(reference, RegistryReference):
        return ""
    return f"; log in with `kit login {reference.host}` or `docker login {reference.host}`, and run it again"


def _code_advice(error: KitError, kit: Kit) -> str:
    """Return how code is allowed here, as the rest of a sentence; "" where that would not help."""
    return "; `kitserve run --allow-code` does that" if code_advice(kit) in str(error.args[0]) else ""


def _extras_advice(text: str, extras: tuple[str, ...]) -> str:
    """Return what to install for a kit, by pip and by uv."""
    joined = ",".join(extras)
    return (
        f"{text} needs libraries that are not installed: {install_command(joined)}, "
        f"or in one go, uvx --from 'kitserve[{joined}]' kitserve run {shlex.quote(text)}"
    )
