"""Arguments and environment variables of `attach`."""

from __future__ import annotations

import pytest

from stallwatch.agent import ConfigurationError, StallwatchError
from stallwatch.agent import _environment as environment
from stallwatch.agent._config import Endpoint, Probes, disabled, resolve


def test_argument_comes_before_environment_before_default():
    """Each of the three is used when those before it say nothing."""
    variables = {environment.RUN: "from-environment", environment.ENDPOINT: "host:1"}
    assert resolve(variables, run="argument").run == "argument"
    assert resolve(variables).run == "from-environment"
    assert resolve({}).run is None
    assert resolve({}).endpoint is None
    assert resolve({}).sample_every == "auto"


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("detector:9846", Endpoint("detector:9846", secure=False)),
        ("http://detector:9846/", Endpoint("detector:9846", secure=False)),
        ("https://detector:443", Endpoint("detector:443", secure=True)),
        ("[::1]:9846", Endpoint("[::1]:9846", secure=False)),
        ("unix:///run/stallwatch.sock", Endpoint("unix:///run/stallwatch.sock", secure=False)),
    ],
)
def test_endpoints(value, endpoint):
    """Addresses with and without a scheme."""
    assert resolve({}, endpoint=value).endpoint == endpoint


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"endpoint": "detector"}, "endpoint"),
        ({"endpoint": "detector:port"}, "endpoint"),
        ({"endpoint": "ftp://detector:21"}, "endpoint"),
        ({"endpoint": "detector:70000"}, "endpoint"),
        ({"run": "two words"}, "run"),
        ({"run": "-dash"}, "run"),
        ({"run": "x" * 129}, "run"),
        ({"group": "two words"}, "group"),
        ({"token": "line\nend"}, "token"),
        ({"dataset_size": -1}, "dataset_size"),
        ({"dataset_size": 1.5}, "dataset_size"),
        ({"base_lr": 0.0}, "base_lr"),
        ({"base_lr": float("nan")}, "base_lr"),
        ({"base_batch_size": float("inf")}, "base_batch_size"),
        ({"sample_every": 0}, "sample_every"),
        ({"sample_every": "often"}, "sample_every"),
        ({"overhead_budget": 0}, "overhead_budget"),
        ({"overhead_budget": 1.5}, "overhead_budget"),
        ({"on_finding": 3}, "on_finding"),
        ({"start_step": -1}, "start_step"),
        ({"total_steps": True}, "total_steps"),
        ({"local_steps": "8"}, "local_steps"),
        ({"probes": {"gradient": False}}, "gradient"),
        ({"probes": {"fingerprints": 1}}, "fingerprints"),
    ],
)
def test_wrong_arguments_are_named_with_what_would_be_right(arguments, named):
    """The message begins with, or holds, the name of the argument, and is one of our errors and a ValueError."""
    with pytest.raises(ConfigurationError, match=named) as caught:
        resolve({}, **arguments)
    assert isinstance(caught.value, StallwatchError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) > 40


def test_environment_errors_name_the_variable(tmp_path):
    """Half a key pair, a file that is not there, a switch that is neither on nor off."""
    certificate = tmp_path / "agent.pem"
    certificate.write_text("x")
    with pytest.raises(ConfigurationError, match=environment.TLS_KEY):
        resolve({environment.TLS_CERT: str(certificate)})
    with pytest.raises(ConfigurationError, match=environment.TLS_CA):
        resolve({environment.TLS_CA: str(tmp_path / "missing.pem")})
    with pytest.raises(ConfigurationError, match=environment.DISABLED):
        disabled({environment.DISABLED: "perhaps"})


@pytest.mark.parametrize(
    ("value", "off"), [("1", True), ("TRUE", True), ("on", True), ("", False), ("0", False)]
)
def test_disabled(value, off):
    """The usual words for yes and no."""
    assert disabled({environment.DISABLED: value}) is off


def test_token_of_the_argument_makes_the_file_moot(tmp_path):
    """A token given outright wins over a file; the token is not in the repr."""
    file = tmp_path / "token"
    file.write_text("from-file\n")
    variables = {environment.TOKEN_FILE: str(file)}
    assert resolve(variables).token_file == file
    settings = resolve(variables, token="secret-word")
    assert settings.token_file is None
    assert "secret-word" not in repr(settings)


def test_probes_are_turned_off_by_name():
    """`attach(..., fingerprints=False)`."""
    assert resolve({}, probes={"fingerprints": False}).probes == Probes(fingerprints=False)


def test_buffer_has_limits_in_bytes_and_minutes():
    """64 MiB and an hour unless the environment says otherwise; 0 minutes is no limit."""
    assert (resolve({}).buffer_bytes, resolve({}).buffer_seconds) == (64 << 20, 3600.0)
    given = resolve({environment.BUFFER_MIB: "1.5", environment.BUFFER_MINUTES: "0"})
    assert (given.buffer_bytes, given.buffer_seconds) == (3 << 19, 0.0)


@pytest.mark.parametrize("variable", [environment.BUFFER_MIB, environment.BUFFER_MINUTES])
@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf"])
def test_buffer_limits_that_cannot_be_used(variable, value):
    """The error names the variable."""
    with pytest.raises(ConfigurationError, match=variable):
        resolve({variable: value})


@pytest.mark.parametrize(
    "arguments",
    [
        {"token": ["secret"]},
        {"endpoint": 9846},
        {"endpoint": "host:²"},
        {"endpoint": "host:" + "9" * 5000},
        {"dataset_size": 2**63},
        {"local_steps": 2**32},
        {"total_steps": 10**5000},
        {"base_lr": 10**400},
        {"overhead_budget": 10**5000},
        {"sample_every": 10**5000},
    ],
)
def test_values_that_cannot_be_sent_or_shown_are_refused(arguments):
    """In words that name the argument; found by fuzzing."""
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        resolve({}, **arguments)
