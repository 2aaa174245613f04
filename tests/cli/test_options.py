"""Types of options, which are durations and points in time; and the files for TLS."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Final

import click
import pytest

from txgearman.cli.options import DURATION, TIME, Servers, as_option

from ..certificates import Authority


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10),
        ("10s", 10),
        ("1.5s", 1.5),
        (".5", 0.5),
        ("500ms", 0.5),
        ("5m", 300),
        ("1h", 3600),
        ("1.5d", 129600),
        (2.0, 2.0),  # the default of an option
    ],
)
def test_duration_is_converted_to_seconds(text: str | float, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["0", "0s", "-1", "+1h", "soon", "", "s", "1 h", "1e3", "inf", "nan", "1w", "٣", 0.0])
def test_invalid_duration_is_refused(text: str | float) -> None:
    with pytest.raises(click.BadParameter, match="must be a duration above 0, such as 10, 10s, 500ms, 5m or 1h, not "):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize("number", ["9" * 400, "9" * 400 + "d"])
def test_infinite_time_is_refused(number: str) -> None:
    for kind in (DURATION, TIME):
        with pytest.raises(click.BadParameter, match="must be"):
            kind.convert(number, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("+90s", 90), ("90s", 90), ("+90", 90), ("5m", 300), ("1h", 3600), ("+1h", 3600), ("+1.5d", 129600)],
)
def test_duration_as_time_counts_from_now(text: str, seconds: float) -> None:
    before = time.time()
    assert before + seconds <= TIME.convert(text, None, None) <= time.time() + seconds


NOON = datetime.datetime(2030, 1, 31, 12, 0).timestamp()  # without a zone: local time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1893456000", 1893456000),
        ("1893456000.5", 1893456000.5),
        (1893456000.5, 1893456000.5),
        ("2030-01-31T12:00", NOON),
        ("2030-01-01T00:00:00+00:00", 1893456000),
    ],
)
def test_absolute_time_is_converted_to_posix_seconds(text: str | float, seconds: float) -> None:
    assert TIME.convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text", ["tomorrow", "", "+", "-1h", "12:00", "h", "2030-13-01T00:00", "0001-01-01T00:00+23:59"]
)
def test_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(
        click.BadParameter, match=r"must be 90s, 5m, \+1h or 1d from now, 2030-01-31T12:00, or POSIX sec"
    ):
        TIME.convert(text, None, None)


# Files for TLS.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


OVER_TLS: Final = ["127.0.0.1:1", "tls:localhost:1"]


def test_tls_options_are_read_from_files(authority: Authority) -> None:
    certificate = authority.issue("client@example.com")
    files = {"trust_roots": str(authority.roots), "certificate": str(certificate), "private_key": str(certificate)}
    options = Servers(OVER_TLS, tls_files=files).tls_options()
    assert options is not None
    assert (options.trust_roots, options.certificate, options.private_key) == tuple(files.values())


def test_tls_options_of_environment_apply_to_tls_addresses(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEARMAND_CA_CERTIFICATE", str(authority.roots))
    options = Servers(OVER_TLS).tls_options()
    assert options is not None
    assert options.trust_roots == str(authority.roots)
    assert Servers(["127.0.0.1:1"]).tls_options() is None


def test_client_certificate_of_options_is_without_key_of_environment(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEARMAN_CLIENT_PEM", "other.pem")
    monkeypatch.setenv("GEARMAN_CLIENT_KEY", "other.key")
    certificate = str(authority.issue("client@example.com"))
    options = Servers(OVER_TLS, tls_files={"certificate": certificate}).tls_options()
    assert options is not None
    assert (options.certificate, options.private_key) == (certificate, None)


def test_tls_without_files_has_defaults_of_the_library() -> None:
    assert Servers(OVER_TLS).tls_options() is None


def test_files_for_tls_without_tls_address_are_refused() -> None:
    with pytest.raises(click.UsageError, match="require a server such as tls:host:4730"):
        Servers(["127.0.0.1:1"], tls_files={"trust_roots": "ca.pem"}).tls_options()


# Messages.


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("job_servers: the port must be from 1 to 65535", "--server: the port must be from 1 to 65535"),
        ("unique must have 63 bytes at most, not 64", "--unique must have 63 bytes at most, not 64"),
        ("function must not be empty", "FUNCTION must not be empty"),
        ("an address must be", "an address must be"),
    ],
)
def test_error_of_library_names_option(message: str, shown: str) -> None:
    assert as_option(message) == shown
