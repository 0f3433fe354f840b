"""What a user may set, checked once at `attach`: argument before environment before default."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from stallwatch.agent import _environment as environment
from stallwatch.agent._errors import ConfigurationError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}\Z")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
_SCHEMES = {"http": False, "grpc": False, "https": True, "grpcs": True}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the detector listens."""

    address: str
    """What gRPC dials: `host:port` or `unix:/path`."""
    secure: bool
    """Whether the address itself asks for TLS."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What is read besides the counters and timers of every step; each can be turned off by name at `attach`."""

    local_gradients: bool = True
    """Norm of this rank's gradient before it is averaged, by tensor hooks on sampled steps."""
    fingerprints: bool = True
    """Bit-exact fingerprints of parameters, gradients and buffers on sampled steps."""
    updates: bool = True
    """Norm of what a step changed, for which sampled steps keep a copy of at most 16,384 elements of each parameter."""
    gradient_fingerprint: bool = True
    """A fingerprint of three small slices of the gradient at every step."""
    gradient_anchor: bool = True
    """Four elements of one gradient, read before and after averaging and at the optimizer, at every step: dates stale
    gradients and sees clipping and loss scales."""
    inputs: bool = True
    """A checksum of a few bytes of the model's inputs at every step: sees ranks and epochs that get the same samples."""
    gradient_zeros: bool = True
    """Exact zeros in gradients, and rows of them, on sampled steps: dead units and underflow."""
    directions: bool = True
    """Cosines of the gradient after a sampled step with that step and with the gradient before it: too short or too long?"""
    activations: bool = True
    """Share of saturated outputs of tanh and sigmoid modules, on sampled steps."""
    input_statistics: bool = False
    """Mean and deviation of the model's first input, on sampled steps."""
    stacks: bool = True
    """The training thread's Python stack in heartbeats when a phase lasts suspiciously long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything `attach` was told, checked."""

    endpoint: Endpoint | None
    run: str | None
    group: str
    token: str | None = field(repr=False)
    token_file: Path | None
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    dataset_size: int
    base_lr: float
    base_batch_size: float
    sample_every: int | Literal["auto"]
    overhead_budget: float
    on_finding: Callable[[Any], object] | None
    start_step: int | None
    total_steps: int
    local_steps: int
    accumulation_steps: int
    buffer_bytes: int
    buffer_seconds: float
    """0: as long as there is room."""
    probes: Probes


def disabled(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether `STALLWATCH_DISABLED` turns the agent off."""
    value = variables.get(environment.DISABLED, "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    message = f"{environment.DISABLED}={value!r} is neither true nor false: set it to 1 or 0"
    raise ConfigurationError(message)


def resolve(
    variables: Mapping[str, str] = os.environ,
    *,
    run: str | None = None,
    group: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    dataset_size: int | None = None,
    base_lr: float | None = None,
    base_batch_size: float | None = None,
    sample_every: int | Literal["auto"] = "auto",
    overhead_budget: float = 0.01,
    on_finding: Any = None,
    start_step: int | None = None,
    total_steps: int | None = None,
    local_steps: int | None = None,
    accumulation_steps: int | None = None,
    probes: Mapping[str, bool] | None = None,
) -> Settings:
    """Returns the settings, or raises a `ConfigurationError` that names the one at fault."""
    certificate = _path(variables, environment.TLS_CERT)
    key = _path(variables, environment.TLS_KEY)
    if (certificate is None) != (key is None):
        message = f"{environment.TLS_CERT} and {environment.TLS_KEY} go together: set both or neither"
        raise ConfigurationError(message)
    token_file = (
        None if token or variables.get(environment.TOKEN) else _path(variables, environment.TOKEN_FILE)
    )
    if on_finding is not None and not callable(on_finding):
        message = f"on_finding={on_finding!r} cannot be called: pass a function that takes one finding"
        raise ConfigurationError(message)
    name = run or variables.get(environment.RUN) or None
    return Settings(
        endpoint=_endpoint(endpoint or variables.get(environment.ENDPOINT) or ""),
        run=None if name is None else _name("run" if run else environment.RUN, name),
        group=_name("group", group or variables.get(environment.GROUP) or "", empty=True),
        token=_token(token or variables.get(environment.TOKEN) or None),
        token_file=token_file,
        tls_ca=_path(variables, environment.TLS_CA),
        tls_cert=certificate,
        tls_key=key,
        dataset_size=_count("dataset_size", dataset_size) or 0,
        base_lr=_positive("base_lr", base_lr),
        base_batch_size=_positive("base_batch_size", base_batch_size),
        sample_every=_sample_every(sample_every),
        overhead_budget=_budget(overhead_budget),
        on_finding=on_finding,
        start_step=_count("start_step", start_step),
        total_steps=_count("total_steps", total_steps) or 0,
        local_steps=_count("local_steps", local_steps, 2**32) or 0,
        accumulation_steps=_count("accumulation_steps", accumulation_steps, 2**32) or 0,
        buffer_bytes=int(_number(variables, environment.BUFFER_MIB, 64.0, 1.0, 65_536.0) * (1 << 20)),
        buffer_seconds=_number(variables, environment.BUFFER_MINUTES, 60.0, 0.0, 1e6) * 60.0,
        probes=_probes(probes or {}),
    )


def _name(where: str, value: object, *, empty: bool = False) -> str:
    if isinstance(value, str) and (NAME_PATTERN.match(value) or (empty and not value)):
        return value
    message = (
        f"{where}={value!r} cannot be a name: use 1 to 128 of letters, digits, '.', '_', '-', '/' and ':', "
        "starting with a letter or digit"
    )
    raise ConfigurationError(message)


def _endpoint(given: object) -> Endpoint | None:
    if not given:
        return None
    # What is no text is no address either, and is shown as it was given.
    value = given if isinstance(given, str) else ""
    if value.startswith("unix:"):
        return Endpoint(value, secure=False)
    scheme, separator, rest = value.partition("://")
    secure = _SCHEMES.get(scheme.lower()) if separator else False
    address = (rest if separator else value).rstrip("/")
    host, colon, port = address.rpartition(":")
    # ASCII: other scripts have digits that `int` reads, or does not. Short: `int` refuses to read thousands of them.
    numeric = port.isascii() and port.isdigit() and len(port) < 6
    if secure is None or not (colon and host and numeric and 0 < int(port) < 65536):
        message = (
            f"endpoint={given!r} is not an address: use host:port, http://host:port, https://host:port or unix:///path "
            "(the detector's gRPC port is 9846 by default)"
        )
        raise ConfigurationError(message)
    return Endpoint(address, secure=secure)


def _token(value: object) -> str | None:
    if value is None:
        return None
    if not (isinstance(value, str) and value.isascii() and value.isprintable()):
        message = (
            "token holds a character that cannot be sent: use printable ASCII (a trailing line end, perhaps)"
        )
        raise ConfigurationError(message)
    return value


def _path(variables: Mapping[str, str], variable: str) -> Path | None:
    value = variables.get(variable)
    if not value:
        return None
    path = Path(value)
    if not path.is_file() or not os.access(path, os.R_OK):
        message = f"{variable}={value!r} is not a file that can be read: give the path of one, or unset it"
        raise ConfigurationError(message)
    return path


def _number(
    variables: Mapping[str, str], variable: str, default: float, lowest: float, highest: float
) -> float:
    value = variables.get(variable, "").strip()
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not lowest <= number <= highest:
        message = f"{variable}={_shown(value)} cannot be used: set a number from {lowest:g} to {highest:g}, or unset it"
        raise ConfigurationError(message)
    return number


def _count(where: str, value: object, limit: int = 2**63) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < limit:
        message = f"{where}={_shown(value)} is not a count: pass a whole number from 0 to {limit - 1}"
        raise ConfigurationError(message)
    return value


def _positive(where: str, value: object) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        message = f"{where}={_shown(value)} cannot be used: pass a finite number above 0"
        raise ConfigurationError(message)
    return float(value)


def _budget(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        message = f"overhead_budget={_shown(value)} is not a share of the step time: pass a number above 0 and at most 1, 0.01 for 1 %"
        raise ConfigurationError(message)
    return float(value)


def _sample_every(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        message = (
            f"sample_every={_shown(value)} cannot be used: pass 'auto' or a number of steps of at least 1"
        )
        raise ConfigurationError(message)
    return value


def _shown(value: object) -> str:
    """For an error; Python does not write out integers of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _probes(values: Mapping[str, object]) -> Probes:
    known = [each.name for each in fields(Probes)]
    for name, value in values.items():
        if name not in known:
            message = f"attach() has no argument {name!r}; the probes are {', '.join(known)}"
            raise ConfigurationError(message)
        if not isinstance(value, bool):
            message = f"{name}={value!r} is neither True nor False: pass one of them"
            raise ConfigurationError(message)
    return Probes(**{name: bool(value) for name, value in values.items()})
