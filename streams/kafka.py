"""How every client of ours reaches Kafka: addresses, TLS, SASL."""

import ssl
from typing import Any

import faust

from streams.errors import WorkerMisconfigured
from streams.settings import Settings

# Long texts travel whole. Topics are created with the same limits; a dead letter has some headers more.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_DEAD_LETTER_BYTES = MAX_MESSAGE_BYTES + 64 * 1024
REQUEST_TIMEOUT_MS = 20_000


def client_options(settings: Settings) -> dict[str, Any]:
    """Arguments for aiokafka's clients."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_url.removeprefix("kafka://").split(","),
        "client_id": "weir",
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
    }
    if settings.kafka_tls:
        options["ssl_context"] = _ssl_context(settings)
    if settings.kafka_sasl_mechanism:
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_user
        options["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    options["security_protocol"] = {
        (False, False): "PLAINTEXT",
        (True, False): "SSL",
        (False, True): "SASL_PLAINTEXT",
        (True, True): "SASL_SSL",
    }[settings.kafka_tls, bool(settings.kafka_sasl_mechanism)]
    return options


def faust_credentials(settings: Settings) -> Any:
    """The same for Faust, or None."""
    context = _ssl_context(settings) if settings.kafka_tls else None
    if settings.kafka_sasl_mechanism:
        return faust.SASLCredentials(
            username=settings.kafka_user,
            password=settings.kafka_password.get_secret_value(),
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
        if settings.kafka_cert_file:
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
    except OSError as error:
        files = "WEIR_KAFKA_CA_FILE, WEIR_KAFKA_CERT_FILE or WEIR_KAFKA_KEY_FILE"
        raise WorkerMisconfigured(f"{files} cannot be used: {error}") from error
    return context
