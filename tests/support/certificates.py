"""Certificates for tests: an authority, and what it issues as files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import trustme


class Authority:
    """Issues certificates for 127.0.0.1 and localhost."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.path = folder / f"{name}.pem"
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(self.path)

    def issue(self, name: str, *, until: datetime | None = None) -> tuple[Path, Path]:
        """Certificate and key, as NAME.pem and NAME.key; files of the same name are replaced."""
        issued = self._authority.issue_cert("127.0.0.1", "localhost", common_name=name, not_after=until)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        certificate.write_bytes(chain)
        key.write_bytes(issued.private_key_pem.bytes())
        return certificate, key
