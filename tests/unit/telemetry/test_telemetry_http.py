"""The port: what it answers, what it refuses, and that nobody can hold it."""

import contextlib
import http.client
import json
import socket
from contextlib import closing

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from stream_trainer.errors import ConfigError
from stream_trainer.telemetry.health import Health, Heartbeat, loops_alive
from stream_trainer.telemetry.http import CONNECTIONS_MAX, TelemetryServer
from stream_trainer.telemetry.metrics import Metrics

WELL = Health(ok=True)


class HandClock:
    """Time that moves when told."""

    def __init__(self):
        self.now_s = 100.0

    def monotonic_s(self):
        return self.now_s

    wall_s = monotonic_s


def serve(*, live=lambda: WELL, ready=lambda: WELL, **options):
    server = TelemetryServer(Metrics(models=["mlp"]).registry, port=0, live=live, ready=ready, **options)
    server.start()
    return closing(server)


def ask(server, path, method="GET", **headers):
    """Status, content type and body."""
    with closing(http.client.HTTPConnection(server.address, server.port, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read().decode()


def test_metrics_are_plain_text_unless_openmetrics_is_asked_for():
    """Both formats are in use; each must be readable by its own parser."""
    with serve() as server:
        status, kind, text = ask(server, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert "stream_trainer_records_learned" in {family.name for family in parse_text(text)}

        status, kind, text = ask(server, "/metrics?x=1", Accept="application/openmetrics-text;version=1.0.0")
        assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
        assert "stream_trainer_records_learned" in {family.name for family in parse_openmetrics(text)}


def test_a_probe_answers_with_its_reasons():
    """A 503 at three in the morning should say why."""
    sick = Health(ok=False, reasons=("no partition is assigned",))
    with serve(ready=lambda: sick) as server:
        assert (ask(server, "/livez")[0], json.loads(ask(server, "/livez")[2])) == (200, {"ok": True, "reasons": []})
        status, kind, body = ask(server, "/readyz")

    assert (status, kind) == (503, "application/json")
    assert json.loads(body) == {"ok": False, "reasons": ["no partition is assigned"]}


def test_a_probe_that_cannot_answer_is_not_healthy_and_tells_strangers_nothing():
    """The message of an exception may hold a path or a password: it goes to the log."""

    def broken():
        raise RuntimeError("secret")

    with serve(live=broken) as server:
        status, _, body = ask(server, "/livez")

    assert status == 503
    assert "RuntimeError" in body
    assert "secret" not in body


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/..", 404),
        ("POST", "/metrics", 405),
        ("HEAD", "/livez", 405),
        ("BREW", "/", 501),
    ],
)
def test_nothing_else_is_served(method, path, expected):
    """Read only: what does not exist cannot be attacked."""
    with serve() as server:
        assert expected == ask(server, path, method=method)[0]


def test_a_busy_port_is_a_configuration_error_that_says_what_to_do():
    """Found at start, before any record is read."""
    with serve() as first, pytest.raises(ConfigError) as caught:
        TelemetryServer(Metrics(models=[]).registry, port=first.port, live=lambda: WELL, ready=lambda: WELL)

    assert f"telemetry: cannot listen on 127.0.0.1 port {first.port}" in str(caught.value)
    assert "set telemetry.port to a free port, 0 for any" in str(caught.value)


@pytest.mark.parametrize(("address", "port"), [("203.0.113.7", 0), ("no such host", 0), ("127.0.0.1", 70_000)])
def test_an_impossible_address_is_a_configuration_error(address, port):
    """Not a traceback: the operator wrote it, the operator can mend it."""
    with pytest.raises(ConfigError, match=r"telemetry: cannot listen on"):
        TelemetryServer(Metrics(models=[]).registry, address=address, port=port, live=lambda: WELL, ready=lambda: WELL)


def test_a_client_that_says_nothing_is_hung_up_on():
    """A socket that is held open costs a thread; a timeout per byte would be renewed by every byte."""
    with serve(request_s_max=0.0) as server, closing(socket.create_connection((server.address, server.port))) as silent:
        silent.settimeout(20)
        silent.sendall(b"GET /metr")

        assert silent.recv(100) == b""


def test_silent_clients_do_not_take_all_threads_for_ever():
    """Beyond the bound new connections are refused at once; once time is over the port answers again."""
    with serve(request_s_max=0.5) as server:
        silent = [socket.create_connection((server.address, server.port)) for _ in range(CONNECTIONS_MAX)]
        with closing(socket.create_connection((server.address, server.port))) as refused:
            refused.settimeout(20)
            assert refused.recv(100) == b""
        for connection in silent:  # each is hung up on: wait for that, not for a time
            connection.settimeout(20)
            assert connection.recv(100) == b""
            connection.close()

        assert answered(server) == 200


def answered(server, attempts=10_000):
    """The status, once the threads just hung up on are gone; each attempt waits for an answer or a refusal."""
    for _ in range(attempts):
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
            return ask(server, "/livez")[0]
    return None


def test_a_closed_server_frees_its_port_at_once():
    """A restart must not wait for TIME_WAIT."""
    with serve() as server:
        ask(server, "/livez")
    again = TelemetryServer(Metrics(models=[]).registry, port=server.port, live=lambda: WELL, ready=lambda: WELL)
    again.close()
    again.close()

    assert server.port == again.port


def test_the_default_is_for_this_machine_only():
    """An open port is a decision of the operator, not a default."""
    with serve() as server:
        assert server.address == "127.0.0.1"


def test_ipv6_works():
    """In a cluster the pod may have nothing else."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        server = serve(address="::1")
    except ConfigError:
        pytest.skip("this machine has no IPv6 loopback address")
    with server as running:
        assert ask(running, "/livez")[0] == 200


def test_liveness_is_the_age_of_our_own_loops():
    """A loop that no longer turns is dead, whatever the reason; the reason names it and its age."""
    clock = HandClock()
    hearts = {"train": Heartbeat(clock), "save": Heartbeat(clock)}
    clock.now_s += 30
    hearts["train"].beat()
    clock.now_s += 31

    assert hearts["train"].age_s() == 31.0
    assert Health(ok=True) == loops_alive(hearts, age_s_max=61)
    assert Health(ok=False, reasons=("loop 'save' last turned 61.0 s ago; at most 60 s are allowed",)) == loops_alive(
        hearts, age_s_max=60
    )
