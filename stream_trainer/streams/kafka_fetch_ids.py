"""Fetches that name the log they want by its id, so that a broker never answers from another log of the same name.

kafka-python asks by name (version 12 of the fetch), and a topic that was deleted and created again has the name of the
one before. The protocol has asked by id since version 13 (Kafka 3.1, KIP-516); the client ships its schema and does not
use it. `FetchById` puts the ids into the requests of one consumer, and the names back into the answers. A broker that
holds another log now answers "unknown topic id", the client asks what became of the topic, and kafka_topic_ids.py
tells. Older brokers are asked by name, as before.
Like kafka_seam.py this touches private names of kafka-python; `ids_problem` tries them out before the first use.
"""

import logging
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import kafka
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import FetchRequest, FetchResponse

__all__ = ["VERSION_WITH_IDS", "FetchById", "ids_problem"]

log = logging.getLogger(__name__)

VERSION_WITH_IDS = 13


class FetchById:
    """Stands between the fetcher of one consumer and its requests. Until `pin` it changes nothing.

    Without an id for every topic all of them are asked for by name: a fetch session speaks one language.
    """

    def __init__(self, fetcher: Any) -> None:
        self._ids: dict[str, UUID] = {}
        self._names: dict[UUID, str] = {}
        self._create, self._handle = fetcher._create_fetch_requests, fetcher._handle_fetch_response
        fetcher._create_fetch_requests, fetcher._handle_fetch_response = self._requests, self._answered

    def pin(self, ids: Mapping[str, str], topics: frozenset[str]) -> None:
        """Before the first fetch: from here on these logs (topic -> hexadecimal id) are read, and no others."""
        known = topics <= ids.keys()
        self._ids = {topic: UUID(hex=ids[topic]) for topic in topics} if known else {}
        self._names = {id: topic for topic, id in self._ids.items()}

    def _requests(self) -> dict[Any, tuple[Any, Any]]:
        requests: dict[Any, tuple[Any, Any]] = self._create()
        if self._ids:
            for request, _ in requests.values():
                for topic in (*request.topics, *request.forgotten_topics_data):
                    topic.topic_id = self._ids[topic.topic]
                request._max_version = VERSION_WITH_IDS
        return requests

    def _answered(self, node_id: Any, fetch_offsets: Any, send_time: Any, response: Any) -> None:
        if response.API_VERSION >= VERSION_WITH_IDS:
            for topic in response.responses:
                topic.topic = self._names[topic.topic_id]
        self._handle(node_id, fetch_offsets, send_time, response)


@cache
def ids_problem() -> str | None:
    """Why fetches cannot be made by id with this kafka-python; None: they can.

    >>> ids_problem() is None
    True
    """
    id = UUID(int=7)
    try:
        request = FetchRequest(
            max_wait_ms=1, min_bytes=1, topics=[FetchRequest.FetchTopic(topic="self-test", partitions=[])],
            forgotten_topics_data=[], max_version=12,
        )  # fmt: skip
        answered: list[Any] = []
        fetcher = SimpleNamespace(
            _create_fetch_requests=lambda: {0: (request, {})},
            _handle_fetch_response=lambda *answer: answered.append(answer[-1]),
        )
        missing = [name for name in vars(fetcher) if not callable(getattr(Fetcher, name, None))]
        if missing:
            return f"kafka-python {kafka.__version__} has no Fetcher.{missing[0]}"
        FetchById(fetcher).pin({"self-test": id.hex}, frozenset({"self-test"}))
        fetcher._create_fetch_requests()
        asked = FetchRequest.decode(request.encode(version=request._max_version), version=VERSION_WITH_IDS)
        answer = FetchResponse(
            version=VERSION_WITH_IDS, responses=[FetchResponse.FetchableTopicResponse(topic_id=id, partitions=[])]
        )
        fetcher._handle_fetch_response(0, {}, 0.0, answer)
        if (id, "self-test") != (asked.topics[0].topic_id, answered[0].responses[0].topic):
            return f"kafka-python {kafka.__version__} sends {asked.topics[0]} and reads {answered[0].responses[0]}"
    except Exception as error:
        return f"kafka-python {kafka.__version__} is built differently than expected: {type(error).__name__}: {error}"
    return None
