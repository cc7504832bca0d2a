"""A real Kafka that dies, falls silent, cuts the line or refuses us: nothing missing or twice, and clear words."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from real_kafka import PASSWORD, PATIENCE_S, create_topic, free_port, produce, producer, read_to, until

from stream_trainer.errors import ConfigError, Stalled
from stream_trainer.types import TopicPartition


def numbers(first, last):
    return [b"%d" % i for i in range(first, last)]


def test_a_broker_killed_and_restarted_while_we_read_costs_no_record(own_broker, open_source):
    """kill -9, then the same log again: every record exactly once, without our help."""
    broker = own_broker()
    topic = create_topic(broker.bootstrap_servers)
    produce(broker.bootstrap_servers, topic, numbers(0, 5_000), linger_ms=5)
    source = open_source(broker.bootstrap_servers, topic)
    source.start(None)
    before, positions = read_to(source, {TopicPartition(topic, 0): 1_000}, records_max=100)

    broker.kill()
    for _ in range(3):
        for chunk in source.poll(0.2, 100):
            before += [(chunk.partition, *row) for row in zip(chunk.offsets, chunk.values, strict=True)]
    late = open_source(broker.bootstrap_servers, topic, connect_s_max=PATIENCE_S)
    with ThreadPoolExecutor() as pool:
        started = pool.submit(late.start, {TopicPartition(topic, 0): 5_000})
        broker.start()
        assert {TopicPartition(topic, 0): 5_000} == started.result(), "it waited for the broker"
    produce(broker.bootstrap_servers, topic, numbers(5_000, 6_000))
    after, positions = read_to(source, {TopicPartition(topic, 0): 6_000}, patience_s=60)

    assert numbers(0, 6_000) == [value for _, _, value in before + after]
    assert {TopicPartition(topic, 0): 6_000} == positions


def test_tls_and_scram_pass_through(broker, open_source):
    topic = create_topic(broker.bootstrap_servers)
    produce(broker.bootstrap_servers, topic, numbers(0, 10))
    source = open_source(broker.secure_servers, topic, client=broker.credentials())
    source.start(None)

    assert numbers(0, 10) == [row[2] for row in read_to(source, source.end_offsets())[0]]


@pytest.mark.parametrize(
    ("change", "likely"),
    [
        ({"sasl_plain_password": "wrong-battery"}, "user or password is wrong"),
        ({"ssl_cafile": None}, "the broker's certificate is not trusted"),
        ({"security_protocol": "PLAINTEXT"}, "the port speaks another security_protocol than PLAINTEXT"),
    ],
)
def test_a_refused_connection_says_what_was_tried_and_what_is_likely(broker, open_source, caplog, change, likely):
    """The client alone says only "Unable to bootstrap", whatever is wrong. No secret is in what we say."""
    address = broker.secure_servers
    source = open_source(address, "any", connect_s_max=3.0, client=broker.credentials() | change)

    with pytest.raises(ConfigError, match="No Kafka broker answered within 3 s") as caught:
        source.start(None)

    said = str(caught.value)
    assert likely in said
    assert f"{address} (TCP open)" in said
    for text in (said, caplog.text, repr(source._options)):
        assert PASSWORD not in text
        assert "wrong-battery" not in text


@pytest.mark.parametrize(
    ("host", "error", "said"),
    [
        ("127.0.0.1", Stalled, r"\(TCP closed: Connection refused\).*the broker is down"),
        ("no-such-host.invalid", ConfigError, r"\(TCP name unknown\).*the address is wrong"),
    ],
)
def test_an_address_where_nobody_listens_is_said(open_source, host, error, said):
    """The broker may come, and a supervisor may try again; a name will not."""
    source = open_source(f"{host}:{free_port()}", "any", connect_s_max=1.0)

    with pytest.raises(error, match=rf"No Kafka broker answered within 1 s. Tried {host}:\d+ {said}"):
        source.start(None)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("reset_peer", {"timeout": 100}), ("timeout", {"timeout": 0}), ("limit_data", {"bytes": 3000})],
)
def test_a_broken_line_costs_no_record(line, open_source, kind, attributes):
    """Reset, silent or cut again and again: polls bring nothing and raise nothing, then everything follows."""
    topic = create_topic(line.address)
    with producer(line.address) as client:
        for value in numbers(0, 2_000):
            client.send(topic, value, partition=0)
        client.flush()
    client = {"request_timeout_ms": 3_000}
    source = open_source(line.address, topic, client=client, partition_fetch_bytes_max=4_000)
    source.start(None)
    before, _ = read_to(source, {TopicPartition(topic, 0): 500}, records_max=50)
    with line.toxic(kind, **attributes):
        for _ in range(15):
            for chunk in source.poll(0.2, 50):
                before += [(chunk.partition, *row) for row in zip(chunk.offsets, chunk.values, strict=True)]
    after, _ = read_to(source, {TopicPartition(topic, 0): 2_000}, patience_s=60)

    assert numbers(0, 2_000) == [value for _, _, value in before + after]


def test_a_slow_line_costs_patience_only(line, open_source):
    """From the first word on: 300 ms, sometimes 400, and 20 KB in a second are no error and no stall."""
    topic = create_topic(line.address)
    values = [b"%d" % i + b"." * 100 for i in range(300)]
    produce(line.address, topic, values)
    with line.toxic("latency", latency=300, jitter=100), line.toxic("bandwidth", rate=20):
        source = open_source(line.address, topic)
        source.start(None)
        rows, _ = read_to(source, {TopicPartition(topic, 0): 300})

    assert values == [value for _, _, value in rows]
    assert (0, 0) == (source.rebuilds, source.retriable_errors)


def test_a_client_that_gets_nothing_is_replaced_and_goes_on_where_it_was(line, open_source):
    """Questions are answered and the log grows, but no fetch arrives whole: that is a stall. Then the line is well."""
    topic = create_topic(line.address)
    produce(line.address, topic, numbers(0, 10))
    client = {"request_timeout_ms": 2_000}
    source = open_source(line.address, topic, client=client, stall_s_max=0.5, rebuilds_max=100)
    source.start(None)
    read_to(source, {TopicPartition(topic, 0): 10})
    values = [b"%d" % i + b"." * 4_000 for i in range(40)]
    before = []
    with line.cut_fetches():
        produce(line.address, topic, values)
        until(
            lambda: source.rebuilds > 0,
            lambda: before.extend(row for chunk in source.poll(0.2, 50) for row in chunk.values),
            PATIENCE_S,
            lambda: "the client was not replaced",
        )
    rows, _ = read_to(source, {TopicPartition(topic, 0): 50}, patience_s=60)

    assert values == before + [value for _, _, value in rows]


def test_a_silent_line_is_no_stall(line, open_source):
    """Brokers that do not answer are waited for; only a log that grows without us is a stall."""
    topic = create_topic(line.address)
    produce(line.address, topic, numbers(0, 10))
    client = {"request_timeout_ms": 2_000}
    source = open_source(line.address, topic, client=client, stall_s_max=0.5, rebuilds_max=0)
    source.start(None)
    read_to(source, {TopicPartition(topic, 0): 10})
    produce(line.address, topic, numbers(10, 20))
    with line.toxic("timeout", timeout=0):
        before = [row for _ in range(6) for chunk in source.poll(0.2, 50) for row in chunk.values]
    rows, _ = read_to(source, {TopicPartition(topic, 0): 20}, patience_s=60)

    assert numbers(10, 20) == before + [value for _, _, value in rows]
