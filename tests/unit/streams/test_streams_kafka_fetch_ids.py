"""Fetches by id: what leaves the client names logs, what comes back names topics, older brokers see no change."""

from types import SimpleNamespace
from uuid import UUID

import pytest
from kafka.protocol.consumer import FetchRequest, FetchResponse

from stream_trainer.streams import kafka_fetch_ids, kafka_seam
from stream_trainer.streams.kafka_fetch_ids import FetchById, ids_problem

ORDERS, RETURNS = UUID(int=7), UUID(int=8)
IDS = {"orders": ORDERS.hex, "returns": RETURNS.hex}
TOPICS = frozenset(IDS)


class Fetcher:
    """Asks for `orders` and forgets `returns`, as kafka-python's does; keeps what it is answered."""

    def __init__(self):
        self.answers = []

    def _create_fetch_requests(self):
        request = FetchRequest(
            max_wait_ms=1,
            min_bytes=1,
            topics=[FetchRequest.FetchTopic(topic="orders", partitions=[])],
            forgotten_topics_data=[FetchRequest.ForgottenTopic(topic="returns", partitions=[1])],
            max_version=12,
        )
        return {0: (request, {})}

    def _handle_fetch_response(self, node_id, fetch_offsets, send_time, response):
        self.answers.append((node_id, [topic.topic for topic in response.responses]))


@pytest.fixture
def fetcher():
    return Fetcher()


def sent(fetcher):
    """What a broker that speaks every version reads."""
    request = fetcher._create_fetch_requests()[0][0]
    version = request._max_version
    return version, FetchRequest.decode(request.encode(version=version), version=version)


def test_every_topic_is_asked_for_and_forgotten_by_its_id(fetcher):
    """A topic that is forgotten by name would stay in the fetch session, and come for ever."""
    FetchById(fetcher).pin(IDS, TOPICS)
    version, request = sent(fetcher)

    assert 13 == version
    assert [ORDERS] == [topic.topic_id for topic in request.topics]
    assert [(RETURNS, [1])] == [(topic.topic_id, topic.partitions) for topic in request.forgotten_topics_data]


@pytest.mark.parametrize("ids", [{}, {"orders": ORDERS.hex}])
def test_names_are_asked_for_until_every_id_is_known(fetcher, ids):
    """A fetch session speaks one language; brokers before 2.8 have no ids at all."""
    FetchById(fetcher).pin(ids, TOPICS)
    version, request = sent(fetcher)

    assert (12, ["orders"]) == (version, [topic.topic for topic in request.topics])


def test_answers_get_their_names_back(fetcher):
    FetchById(fetcher).pin(IDS, TOPICS)
    by_id = [FetchResponse.FetchableTopicResponse(topic_id=id, partitions=[]) for id in (RETURNS, ORDERS)]
    by_name = [FetchResponse.FetchableTopicResponse(topic="orders", partitions=[])]
    fetcher._handle_fetch_response(0, {}, 0.0, FetchResponse(version=13, responses=by_id))
    fetcher._handle_fetch_response(1, {}, 0.0, FetchResponse(version=12, responses=by_name))

    assert [(0, ["returns", "orders"]), (1, ["orders"])] == fetcher.answers


def test_a_client_built_differently_is_left_to_fetch_by_name(monkeypatch, caplog):
    """Late is better than never: without ids the names still work."""
    monkeypatch.setattr(kafka_fetch_ids, "VERSION_WITH_IDS", 12)  # which drops the id on its way
    ids_problem.cache_clear()
    consumer = SimpleNamespace(_fetcher=Fetcher())

    assert kafka_seam.install(consumer) is None
    assert "created again is noticed late, for fetches are by name" in caplog.text
    assert (12, ["orders"]) == (lambda found: (found[0], [t.topic for t in found[1].topics]))(sent(consumer._fetcher))
    ids_problem.cache_clear()
