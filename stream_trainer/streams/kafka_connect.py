"""Connecting to Kafka, and saying why it failed.

kafka-python says "Unable to bootstrap" whatever is wrong: name, port, certificate or password. So its log lines are
collected while it tries, each address is tried once by hand, and both go into the error. Neither holds a secret: the
client logs no passwords, and settings are named here, never shown.
"""

import logging
import re
import socket
from collections.abc import Callable
from typing import Any

import kafka
from kafka import codec
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient

from stream_trainer.errors import ConfigError
from stream_trainer.streams.kafka_options import KafkaOptions, client_settings

__all__ = ["check_codecs", "connect", "is_auth_error", "open_consumer"]

log = logging.getLogger(__name__)

PROBE_S_MAX = 2.0
REASONS_MAX = 3  # of the client, that go into an error
BOOTSTRAP_FAILURE = re.compile(r"Bootstrap connection to \S+ failed: (.*?)(?: \(backoff .*\))?$", re.DOTALL)


def connect(
    options: KafkaOptions, make_consumer: Callable[..., Any] = kafka.KafkaConsumer, *, wait_s: float | None = None
) -> Any:
    """A connected consumer without partitions; `wait_s` instead of `options.connect_s_max` where given.

    Raises: ConfigError: the client refuses the settings, or nobody answered; says what was tried and likely causes.
    """
    settings = client_settings(options)
    if wait_s is not None:
        settings["bootstrap_timeout_ms"] = round(wait_s * 1000)
    said = _ClientLines()
    logging.getLogger("kafka").addHandler(said)
    try:
        return open_consumer(make_consumer, settings)
    except kafka_errors.KafkaConfigurationError as error:
        raise ConfigError(
            f"source.kafka.client: {error}. See kafka-python's KafkaConsumer for the known keys."
        ) from error
    except (kafka_errors.KafkaError, OSError, ValueError, AssertionError, TypeError) as error:
        raise ConfigError(_why(options, error, said.reasons, settings["bootstrap_timeout_ms"] / 1000)) from error
    finally:
        logging.getLogger("kafka").removeHandler(said)


def open_consumer(make_consumer: Callable[..., Any], settings: dict[str, Any]) -> Any:
    """The client, or its exception; and then without the thread that it would leave running, trying for ever."""
    clients: list[KafkaNetClient] = []

    def make_client(**client_settings: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(**client_settings))
        return clients[-1]

    try:
        return make_consumer(**settings, kafka_client=make_client)
    except BaseException:
        for client in clients:
            client.close()
        raise


def check_codecs() -> None:
    """Raises: ConfigError: a codec that every Kafka producer may use cannot be read."""
    missing = [name for name, there in (("lz4", codec.has_lz4()), ("zstandard", codec.has_zstd())) if not there]
    if missing:
        raise ConfigError(f"Compressed records could not be read: install {' and '.join(missing)} (pip install ...).")
    if not codec.has_snappy():
        log.info("Records compressed with snappy cannot be read: python-snappy is not installed.")


def is_auth_error(error: Exception) -> bool:
    """Whether only a change of rights or passwords can help."""
    return isinstance(error, kafka_errors.AuthorizationError | kafka_errors.SaslAuthenticationFailedError)


class _ClientLines(logging.Handler):
    """Remembers the different reasons that the client logs for not connecting."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = BOOTSTRAP_FAILURE.search(record.getMessage())
        if found and found[1] not in self.reasons:
            self.reasons.append(found[1])


def _why(options: KafkaOptions, error: Exception, reasons: list[str], waited_s: float) -> str:
    protocol = str(options.client.get("security_protocol", "PLAINTEXT"))
    mechanism = options.client.get("sasl_mechanism")
    found = [(server.strip(), _probe(server.strip())) for server in options.bootstrap_servers.split(",")]
    is_open = any(state == "open" for _, state in found)
    return (
        f"No Kafka broker answered within {waited_s:g} s. Tried "
        + ", ".join(f"{server} (TCP {state})" for server, state in found)
        + f", security_protocol {protocol}"
        + (f", sasl_mechanism {mechanism}" if mechanism else "")
        + f". The client said: {'; '.join(reasons[:REASONS_MAX]) or error}. "
        + f"Likely: {_likely(protocol, ' '.join(reasons).lower()) if is_open else NOBODY_LISTENS}."
    )


NOBODY_LISTENS = "the address is wrong, or the broker is down, or a firewall is between; try it from this machine"


def _likely(protocol: str, said: str) -> str:
    if "saslauthentication" in said:
        return "user or password is wrong, or the user does not exist for this sasl_mechanism"
    if "handshake failed" in said:
        return "the broker's certificate is not trusted (ssl_cafile) or names another host, or the port is not TLS"
    other = (
        f"the port speaks another security_protocol than {protocol}, or the broker advertises addresses that cannot be "
        "reached from here (advertised.listeners)"
    )
    return f"user or password is wrong, or {other}" if protocol.startswith("SASL") else other


def _probe(server: str) -> str:
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_S_MAX):
            return "open"
    except socket.gaierror:
        return "name unknown"
    except ValueError:
        return "not checked: expected host:port"
    except OSError as error:
        return f"closed: {error.strerror or type(error).__name__}"
