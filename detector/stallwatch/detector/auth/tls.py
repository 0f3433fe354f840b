"""The certificate that the service shows: read from files, read again when they change, never half of a change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from stallwatch.detector.errors import UsageError

OLDEST_VERSION = ssl.TLSVersion.TLSv1_2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """Where the files are."""

    certificate: Path
    """The certificate, followed by those of authorities in between, as PEM."""
    key: Path
    client_ca: Path | None = None
    """Authorities of agents' certificates; None: agents need none."""


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What stood in them at one moment, and fits together."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext
    """For servers that use Python's TLS; it asks for no client certificate."""


class TlsFiles:
    """The latest material that was valid."""

    def __init__(self, paths: TlsPaths) -> None:
        self._paths = paths
        self.material = _load(paths)
        self.problem: str | None = None
        """Why the files as they are now cannot be used; those before hold until they can."""

    @property
    def needs_client(self) -> bool:
        """Whether agents have to show a certificate."""
        return self._paths.client_ca is not None

    def refresh(self) -> bool:
        """Read the files again, and say whether something else is shown now."""
        now = self.material
        try:
            if _read(self._paths) == (now.certificate, now.key, now.client_ca):
                self._say(None)
                return False
            self.material = _load(self._paths)
        except UsageError as error:
            self._say(str(error))
            return False
        self._say(None)
        log.info("certificate %s was read again", self._paths.certificate)
        return True

    def server_context(self) -> ssl.SSLContext:
        """A context whose connections get the material of the moment at which they begin."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = OLDEST_VERSION

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self.material.context

        # Called whether or not the client names a server.
        context.sni_callback = choose
        return context

    def _say(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            log.error("%s; the certificate that was read before is still shown", problem)
        self.problem = problem


def not_after(certificate: bytes) -> datetime:
    """When a certificate, the first of a PEM file, ends to be valid."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def _read(paths: TlsPaths) -> tuple[bytes, bytes, bytes | None]:
    client_ca = None if paths.client_ca is None else _content("--tls-client-ca", paths.client_ca)
    return _content("--tls-cert", paths.certificate), _content("--tls-key", paths.key), client_ca


def _content(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {error.strerror}") from None


def _load(paths: TlsPaths) -> TlsMaterial:
    before = _read(paths)
    certificate, key, client_ca = before
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = OLDEST_VERSION
    try:
        # Without a terminal to ask for it, a key with a passphrase is of no use.
        context.load_cert_chain(paths.certificate, paths.key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise UsageError(
            f"--tls-cert {paths.certificate} and --tls-key {paths.key} are no PEM certificate and its key: {_reason(error)}"
        ) from None
    if client_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(
                f"--tls-client-ca {paths.client_ca} holds no PEM certificates: {_reason(error)}"
            ) from None
    # OpenSSL reads the files by itself: what it has read must be what was read here.
    if _read(paths) != before:
        raise UsageError(f"--tls-cert {paths.certificate} changed while it was read: try again")
    return TlsMaterial(certificate, key, client_ca, context)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return type(error).__name__
