"""One real detector with tokens, TLS and client certificates, and with secrets wherever it takes one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import Authority
from support.rank import Access
from support.service import Service
from support.token_kinds import write_tokens

WEBHOOK_SECRET = "https://hooks.invalid/T0P/s3cret-of-the-webhook"
"""It cannot be resolved: each event fails to be sent, which is logged."""


class Guarded:
    """The detector, its authority, its tokens, and ways in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.clients = Authority(folder, "clients")
        self.certificate, self.key = self.authority.issue("server")
        self.client = self.clients.issue("client")
        self.file = folder / "tokens.toml"
        self.tokens = write_tokens(self.file)
        self.secrets = {WEBHOOK_SECRET, "s3cret-of-the-webhook", *self.tokens.values()}
        config = folder / "stallwatch.toml"
        config.write_text(f'[[alerts.webhooks]]\nurl = "{WEBHOOK_SECRET}"\nretry_seconds = 0\n')
        self.service = Service(
            folder / "data",
            *("--config", str(config), "--tokens", str(self.file)),
            *("--tls-cert", str(self.certificate), "--tls-key", str(self.key)),
            *("--tls-client-ca", str(self.clients.path)),
        )
        self.service.ca = self.authority.path
        self.service.token = self.tokens["admin-all"]

    def access(self, token: str | Path | None = None, **others) -> Access:
        """A way in for a rank, by a kind of token or a file of one."""
        if isinstance(token, str):
            token = self.tokens[token]
        return Access(token, self.authority.path, others.pop("certificate", self.client), **others)

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `stallwatch`."""
        command = [sys.executable, "-m", "stallwatch.detector", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, **environment},
        )

    def create(self, name: str, *arguments: str) -> str:
        """Make a token by the command."""
        made = self.command("token", "create", name, *arguments, "--file", str(self.file), "--json")
        assert made.returncode == 0, made.stderr
        secret: str = json.loads(made.stdout)["token"]
        self.secrets.add(secret)
        return secret

    def revoke(self, name: str) -> None:
        """End one."""
        assert self.command("token", "revoke", name, "--file", str(self.file)).returncode == 0


@pytest.fixture(scope="session")
def guarded(tmp_path_factory) -> Iterator[Guarded]:
    """It, running."""
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    with made.service:
        yield made
