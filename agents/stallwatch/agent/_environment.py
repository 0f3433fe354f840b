"""The environment variables the agent reads, each named once."""

from typing import Final

ENDPOINT: Final = "STALLWATCH_ENDPOINT"
"""Where the detector listens: `host:port`, `http://host:port`, `https://host:port` or `unix:///path`. Unset: the agent does nothing."""

RUN: Final = "STALLWATCH_RUN"
"""Name of the run. Unset: taken from the launcher, else from the name of the script."""

GROUP: Final = "STALLWATCH_GROUP"
"""Family of runs that are compared with each other."""

TOKEN: Final = "STALLWATCH_TOKEN"  # noqa: S105 -- the name of a variable, not a secret
"""Bearer token sent to the detector."""

TOKEN_FILE: Final = "STALLWATCH_TOKEN_FILE"  # noqa: S105 -- the name of a variable, not a secret
"""File that holds the bearer token; read again at each connection, so that it may rotate."""

TLS_CA: Final = "STALLWATCH_TLS_CA"
"""PEM file with the authorities that vouch for the detector. Setting it, or an https endpoint, turns TLS on."""

TLS_CERT: Final = "STALLWATCH_TLS_CERT"
"""PEM file with this agent's certificate, for a detector that asks for one; goes with `STALLWATCH_TLS_KEY`."""

TLS_KEY: Final = "STALLWATCH_TLS_KEY"
"""PEM file with the private key of `STALLWATCH_TLS_CERT`."""

BUFFER_MIB: Final = "STALLWATCH_BUFFER_MIB"
"""Most memory, in MiB, for what the detector has not yet taken: 64 by default, 1 to 65536. Beyond it the oldest is dropped and counted."""

BUFFER_MINUTES: Final = "STALLWATCH_BUFFER_MINUTES"
"""Longest time, in minutes, to keep it: 60 by default, 0 for as long as there is room."""

DISABLED: Final = "STALLWATCH_DISABLED"
"""`1`, `true`, `yes` or `on`: `attach` does nothing at all."""
