"""What a user writes about TLS at the admin address."""

from __future__ import annotations

from pathlib import Path

from gateway.config.kits import Strict


class AdminTls(Strict):
    """TLS at `admin`, and whose certificates open it as the token does."""

    cert_file: Path
    """The server's certificate (PEM), with those between it and its authority."""
    key_file: Path
    """The certificate's key (PEM), without a passphrase."""
    client_ca_file: Path | None = None
    """The authorities (PEM) of clients: who shows a certificate of theirs needs no token."""

    def rooted(self, directory: Path) -> AdminTls:
        """Return the same with its relative paths made absolute from a directory."""
        client_ca = None if self.client_ca_file is None else directory / self.client_ca_file
        return AdminTls(
            cert_file=directory / self.cert_file, key_file=directory / self.key_file, client_ca_file=client_ca
        )
