"""How clients reach Kafka: addresses, TLS, SASL."""

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import faust
import pytest

from streams.errors import WorkerMisconfigured
from streams.kafka import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES, client_options, faust_credentials
from streams.settings import Settings

SASL: dict[str, Any] = {"kafka_sasl_mechanism": "SCRAM-SHA-512", "kafka_user": "ann", "kafka_password": "hunter2"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings with a certificate that signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*new.split(), *files], check=True, capture_output=True)
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    return {"kafka_ca_file": cert, "kafka_cert_file": cert, "kafka_key_file": key}


def settings(**given: Any) -> Settings:
    return Settings(kafka_url="kafka://a:1,b:2", **given)


def test_every_address_is_tried() -> None:
    assert client_options(settings())["bootstrap_servers"] == ["a:1", "b:2"]


@pytest.mark.parametrize(
    ("given", "protocol"),
    [
        ({}, "PLAINTEXT"),
        ({"kafka_tls": True}, "SSL"),
        (SASL, "SASL_PLAINTEXT"),
        ({"kafka_tls": True, **SASL}, "SASL_SSL"),
    ],
)
def test_protocols(given: dict[str, Any], protocol: str) -> None:
    options = client_options(settings(**given))
    credentials = faust_credentials(settings(**given))
    assert options["security_protocol"] == protocol
    assert (credentials.protocol.value if credentials else "PLAINTEXT") == protocol
    assert ("ssl_context" in options) == ("SSL" in protocol.split("_"))
    if SASL.items() <= given.items():
        login = (options["sasl_mechanism"], options["sasl_plain_username"], options["sasl_plain_password"])
        assert login == ("SCRAM-SHA-512", "ann", "hunter2")
        assert isinstance(credentials, faust.SASLCredentials)
        assert (credentials.mechanism.value, credentials.username, credentials.password) == login
        assert "hunter2" not in repr(credentials)
    else:
        assert not any(name.startswith("sasl") for name in options)


def test_tls_checks_the_broker(certificate: dict[str, str]) -> None:
    for context in (
        client_options(settings(kafka_tls=True, **certificate))["ssl_context"],
        faust_credentials(settings(kafka_tls=True, **certificate)).context,
        client_options(settings(kafka_tls=True))["ssl_context"],
    ):
        assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


def test_the_own_certificate_authority_is_the_only_one(certificate: dict[str, str]) -> None:
    context = client_options(settings(kafka_tls=True, **certificate))["ssl_context"]
    assert len(context.get_ca_certs()) == 1


def test_files_count_only_with_tls(certificate: dict[str, str]) -> None:
    assert client_options(settings(**certificate))["security_protocol"] == "PLAINTEXT"
    assert faust_credentials(settings(**certificate)) is None


@pytest.mark.parametrize("name", ["kafka_ca_file", "kafka_cert_file"])
def test_a_file_that_is_no_certificate(certificate: dict[str, str], tmp_path: Path, name: str) -> None:
    (tmp_path / "no.pem").write_text("hello")
    given = certificate | {name: str(tmp_path / "no.pem")}
    for use in (client_options, faust_credentials):
        with pytest.raises(WorkerMisconfigured, match="WEIR_KAFKA_"):
            use(settings(kafka_tls=True, **given))


def test_a_dead_letter_has_room_for_its_reason() -> None:
    assert MAX_DEAD_LETTER_BYTES - MAX_MESSAGE_BYTES >= 16 * 1024
