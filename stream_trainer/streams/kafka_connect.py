"""Connecting to Kafka, and saying why it failed.

kafka-python says "Unable to bootstrap" whatever is wrong: name, port, certificate or password. So its log lines are
collected while it tries, each address is tried once by hand, and both go into the error. Neither holds a secret: the
client logs no passwords, and settings are named here, never shown.

What cannot pass by itself (a name, a password, a certificate) is a ConfigError at once; brokers that do not answer are
waited for, and only then it is Stalled, which a supervisor answers by starting us again.
"""

import logging
import math
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient

from stream_trainer.errors import ConfigError, Stalled
from stream_trainer.streams.kafka_options import KafkaOptions, client_settings

__all__ = ["connect", "is_auth_error", "open_consumer"]

log = logging.getLogger(__name__)

ATTEMPT_S_MAX = 10.0  # after each it is asked whether waiting helps
PROBE_S_MAX = 2.0
REASONS_MAX = 3  # of the client, that go into an error
BOOTSTRAP_FAILURE = re.compile(r"Bootstrap connection to \S+ failed: (.*?)(?: \(backoff .*\))?$", re.DOTALL)


def connect(
    options: KafkaOptions, make_consumer: Callable[..., Any] = kafka.KafkaConsumer, *, wait_s: float | None = None
) -> Any:
    """A connected consumer without partitions, waiting for the brokers `wait_s` (None: `options.connect_s_max`).

    Raises: ConfigError: waiting cannot help: settings, names, passwords, certificates; Stalled: nobody answered.
    Both say what was tried and what is likely.
    """
    wait_s = options.connect_s_max if wait_s is None else wait_s
    settings = client_settings(options)
    n_attempts = math.ceil(wait_s / ATTEMPT_S_MAX)
    for attempt in range(1, n_attempts + 1):
        settings["bootstrap_timeout_ms"] = round(wait_s / n_attempts * 1000)
        problem = _NoAnswer(options, waited_s=wait_s / n_attempts * attempt)
        try:
            with problem.listening():
                return open_consumer(make_consumer, settings)
        except kafka_errors.KafkaConfigurationError as error:
            raise ConfigError(
                f"source.kafka.client: {error}. See kafka-python's KafkaConsumer for the known keys."
            ) from error
        except (kafka_errors.KafkaError, OSError, ValueError, AssertionError, TypeError) as error:
            found = problem.as_error(error)
            if attempt == n_attempts or not found.retriable:
                raise found from error
            log.warning("%s Waiting for up to %g s.", found, wait_s)
    raise AssertionError("the last attempt returns or raises")


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


def is_auth_error(error: Exception) -> bool:
    """Whether only a change of rights or passwords can help."""
    return isinstance(error, kafka_errors.AuthorizationError | kafka_errors.SaslAuthenticationFailedError)


class _NoAnswer(logging.Handler):
    """Collects why the client does not connect, and says whether waiting may help."""

    def __init__(self, options: KafkaOptions, *, waited_s: float) -> None:
        super().__init__(logging.WARNING)
        self._options, self._waited_s = options, waited_s
        self._reasons: list[str] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        logging.getLogger("kafka").addHandler(self)
        try:
            yield
        finally:
            logging.getLogger("kafka").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        found = BOOTSTRAP_FAILURE.search(record.getMessage())
        if found and found[1] not in self._reasons:
            self._reasons.append(found[1])

    def as_error(self, error: Exception) -> ConfigError | Stalled:
        protocol = str(self._options.client.get("security_protocol", "PLAINTEXT"))
        mechanism = self._options.client.get("sasl_mechanism")
        states = {server.strip(): _probe(server.strip()) for server in self._options.bootstrap_servers.split(",")}
        may_pass, likely = _likely(protocol, states, " ".join(self._reasons).lower())
        return (Stalled if may_pass else ConfigError)(
            f"No Kafka broker answered within {self._waited_s:g} s. Tried "
            + ", ".join(f"{server} (TCP {state})" for server, state in states.items())
            + f", security_protocol {protocol}"
            + (f", sasl_mechanism {mechanism}" if mechanism else "")
            + f". The client said: {'; '.join(self._reasons[:REASONS_MAX]) or error}. Likely: {likely}."
        )


def _likely(protocol: str, states: Mapping[str, str], said: str) -> tuple[bool, str]:
    """Whether it may pass by itself, and what it is."""
    if "open" not in states.values():
        if all(state in (NAME_UNKNOWN, NO_ADDRESS) for state in states.values()):
            return False, "the address is wrong; try it from this machine"
        return True, "the broker is down, or the address is wrong, or a firewall is between; try it from this machine"
    if "certificate" in said:
        return False, "the broker's certificate is not trusted (ssl_cafile) or names another host"
    tls, servers = protocol.endswith("SSL"), [server for server, state in states.items() if state == "open"]
    if any(_answers(server, tls=not tls) for server in servers):
        return False, f"the port speaks another security_protocol than {protocol}"
    if protocol.startswith("SASL") and ("saslauthentication" in said or any(_answers(s, tls=tls) for s in servers)):
        return False, "user or password is wrong, or the user does not exist for this sasl_mechanism"
    return True, (
        "the broker is not ready, or advertises addresses that cannot be reached from here (advertised.listeners), or "
        f"the port speaks another security_protocol than {protocol}"
    )


NAME_UNKNOWN = "name unknown"
NO_ADDRESS = "not checked: expected host:port"


def _probe(server: str) -> str:
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_S_MAX):
            return "open"
    except socket.gaierror:
        return NAME_UNKNOWN
    except ValueError:
        return NO_ADDRESS
    except OSError as error:
        return f"closed: {error.strerror or type(error).__name__}"


def _answers(server: str, *, tls: bool) -> bool:
    """Whether a Kafka broker answers there, asked what every client asks first, before it says who it is."""
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_S_MAX) as plain:
            if not tls:
                return _says_its_versions(plain)
            with ANY_CERTIFICATE.wrap_socket(plain, server_hostname=host.strip("[]")) as secure:
                return _says_its_versions(secure)
    except OSError:  # also what TLS has to complain about
        return False


ANY_CERTIFICATE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # only for that question: nothing of ours is in it
ANY_CERTIFICATE.check_hostname, ANY_CERTIFICATE.verify_mode = False, ssl.CERT_NONE
ASK_VERSIONS = struct.pack(">ihhih", 10, 18, 0, NUMBER := 20_263, -1)  # size, ApiVersions, version 0, number, no name


def _says_its_versions(connection: socket.socket) -> bool:
    connection.sendall(ASK_VERSIONS)
    answer = connection.recv(8)  # size, number of the question; a broker sends them in one piece
    return answer[4:] == NUMBER.to_bytes(4, "big")
