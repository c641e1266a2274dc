"""The files that say who may call: read, checked, and brought to the HAProxy that runs when they change.

Each file of the user has a copy among HAProxy's own (`EdgeFiles`), in the form that HAProxy takes. HAProxy
starts from the copies alone. So a file that is changed for the worse changes nothing: it is told, and what
was right before stays in force, through reloads too. No connection is lost by a change.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gateway.config.access import Tls, TokenIssuer
from gateway.config.config import GatewayConfig
from gateway.config.keys import Key, parse_keys
from gateway.edge import access
from gateway.edge.certificates import authorities_pem, certificate_pem, has_ended, token_key_pem
from gateway.edge.files import EdgeFiles
from gateway.edge.haproxy import HAProxy, ask
from gateway.edge.haproxy_map import read_entries, write_entries
from gateway.edge.keys import key_entries
from gateway.errors import EdgeError, KitserveError
from gateway.files import read_regular, replace_private

_LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Copy:
    """What HAProxy has of some files of the user."""

    sources: tuple[Path, ...]
    target: Path
    read: Callable[[], str]
    """Returns what the target is to hold."""
    bring: Callable[[str], None]
    """Has the HAProxy that runs use it, and writes the target in between or before."""
    current: str = field(default="", repr=False)
    """What HAProxy uses."""
    stamp: _Stamp = ()
    """The sources as they were when what they held was brought to HAProxy, or refused."""
    doubted: _Stamp = ()
    """The sources as they were when they were wrong once: they may have been half written."""
    pending: str = field(default="", repr=False)
    """What is still to be brought to HAProxy, which did not answer."""


class AccessFiles:
    """The files that `config` names, and the HAProxy of `files`; `access` says what is in its configuration.

    Raises:
        EdgeError, ConfigError: when one of the files cannot be used.
    """

    def __init__(self, config: GatewayConfig, files: EdgeFiles) -> None:
        self._files = files
        self._haproxy = HAProxy(files)
        self._issuers: Sequence[TokenIssuer] = () if config.keys is None else config.keys.tokens
        self._key_file = None if config.keys is None else config.keys.file
        self.access = _access(config)
        self._copies = [] if config.tls is None else self._tls_copies(config.tls)
        if config.keys is not None:
            sources = () if self._key_file is None else (self._key_file,)
            self._copies.append(_Copy(sources, files.keys, self._keys, self._bring_keys))
        for number, issuer in enumerate(self._issuers):
            target = files.token_key(number)
            read = partial(_token_key, issuer)
            self._copies.append(
                _Copy((issuer.key_file,), target, read, partial(self._bring_token_key, target))
            )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="access-files", daemon=True)
        files.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for copy in self._copies:
            copy.stamp = _stamp(copy.sources)
            copy.current = copy.read()
            replace_private(copy.target, copy.current)

    def start(self) -> None:
        """Look after the files from now on, in a thread."""
        if any(copy.sources for copy in self._copies):
            self._thread.start()

    def stop(self) -> None:
        """Look after them no more. Safe to call twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self) -> None:
        """Bring to HAProxy what has changed."""
        for copy in self._copies:
            _refresh(copy)

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                self.refresh()
            except Exception:
                log.exception("access.failed")

    def _tls_copies(self, tls: Tls) -> list[_Copy]:
        certificate = self._files.certificate
        copies = [
            _Copy(
                (tls.cert_file, tls.key_file),
                certificate,
                partial(_certificate, tls, may_have_ended=partial(_is_absent, certificate)),
                partial(self._bring_pem, "cert", certificate),
            )
        ]
        if tls.client_ca_file is not None:
            read = partial(_authorities, tls.client_ca_file)
            target = self._files.client_ca
            copies.append(
                _Copy((tls.client_ca_file,), target, read, partial(self._bring_pem, "ca-file", target))
            )
        return copies

    def _keys(self) -> str:
        keys: tuple[Key, ...] = ()
        if self._key_file is not None:
            text = _read(self._key_file).decode("utf-8", "replace")
            keys = parse_keys(text, str(self._key_file), [issuer.name for issuer in self._issuers])
        return "".join(write_entries(key_entries(keys, self._issuers)))

    def _bring_keys(self, text: str) -> None:
        # First the file: a key that was withdrawn must not come back with a reload.
        replace_private(self._files.keys, text)
        self._haproxy.replace_map(self._files.keys, read_entries(text))

    def _bring_pem(self, kind: str, target: Path, text: str) -> None:
        """Have HAProxy check and use a certificate; the file follows once it is checked."""
        path = self._files.runtime_socket
        answer = ask(path, f"set ssl {kind} {target} <<\n{text}")
        if "ransaction" not in answer:
            with contextlib.suppress(EdgeError):
                ask(path, f"abort ssl {kind} {target}")
            raise _Refused(f"HAProxy refuses it: {' '.join(answer.split())}")
        replace_private(target, text)
        answer = ask(path, f"commit ssl {kind} {target}")
        if "Success" not in answer:
            raise EdgeError(f"HAProxy did not take it: {' '.join(answer.split())}")

    def _bring_token_key(self, target: Path, text: str) -> None:
        before = target.read_text()
        replace_private(target, text)
        try:
            # HAProxy reads keys of tokens only as it starts.
            self._haproxy.reload()
        except EdgeError:
            replace_private(target, before)
            raise


class _Refused(EdgeError):
    """What HAProxy will not take however often it is asked."""


def _refresh(copy: _Copy) -> None:
    stamp = _stamp(copy.sources)
    if stamp == copy.stamp and not copy.pending:
        return
    names = ", ".join(map(str, copy.sources))
    try:
        if stamp != copy.stamp:
            copy.pending = copy.read()
    except KitserveError as error:
        if stamp == copy.doubted:
            copy.stamp = stamp
            log.warning("%s: not used, what was there before stays in force: %s", names, error)
        copy.doubted = stamp
        return
    copy.stamp = stamp
    if copy.pending == copy.current:
        copy.pending = ""
        return
    try:
        copy.bring(copy.pending)
    except _Refused as error:
        copy.pending = ""
        log.warning("%s: not used, what was there before stays in force: %s", names, error)
    except EdgeError as error:
        log.warning("%s: not in force yet: %s", names, error)
    else:
        copy.current, copy.pending = copy.pending, ""
        log.info("%s: what is new in it is in force", names)


def _access(config: GatewayConfig) -> access.Access:
    """Return what HAProxy's configuration must say of who may call."""
    keys = config.keys
    issuers = () if keys is None else keys.tokens
    return access.Access(
        has_tls=config.tls is not None,
        has_client_ca=config.tls is not None and config.tls.client_ca_file is not None,
        has_keys=keys is not None,
        issuers=tuple(
            access.TokenIssuer(issuer.name, issuer.algorithm, issuer.issuer, issuer.audience)
            for issuer in issuers
        ),
        hosts=config.allowed_hosts,
        origins=config.allowed_origins,
    )


def _certificate(tls: Tls, may_have_ended: Callable[[], bool]) -> str:
    with _naming(tls.cert_file):
        text, end = certificate_pem(_read(tls.cert_file), _read(tls.key_file))
        if has_ended(end):
            if not may_have_ended():
                raise EdgeError(f"the certificate ended on {end:%Y-%m-%d}")
            # The first one is used all the same: no certificate at all would be no better.
            log.warning("%s: the certificate ended on %s; put a new one in its place", tls.cert_file, end)
        return text


def _authorities(path: Path) -> str:
    with _naming(path):
        return authorities_pem(_read(path))


def _token_key(issuer: TokenIssuer) -> str:
    with _naming(issuer.key_file):
        return token_key_pem(_read(issuer.key_file), issuer.algorithm)


def _is_absent(path: Path) -> bool:
    return not path.exists()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before an error in it."""
    try:
        yield
    except EdgeError as error:
        raise EdgeError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    """Return what is in a file of the user. Raises EdgeError, see `read_regular`."""
    try:
        return read_regular(path)
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}") from error


def _stamp(paths: Sequence[Path]) -> _Stamp:
    """Return what changes when one of some files does; None for one that is not there."""
    return tuple(map(_stamp_of, paths))


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
