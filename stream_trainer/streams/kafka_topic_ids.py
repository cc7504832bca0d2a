"""Whether a topic is still the log that our positions speak of: Kafka gives each log an id, a name may be used again.

Fetches ask for the ids that are kept here (kafka_fetch_ids.py), so no broker answers them from another log. Brokers
before 3.1 are asked by name: there a new log is read from our old offset, if it is that long, until the client hears
the new id. Not here: asking, and what to do.
"""

from collections.abc import Mapping

__all__ = ["TopicIds"]


class TopicIds:
    """Topic -> id of its log, in hexadecimal, as it was when our positions were kept.

    >>> ids = TopicIds()
    >>> ids.keep({"orders": "a1"})
    >>> ids.recreated({"orders": "b2"})
    {'orders': 'the topic was deleted and created again (its id was a1, it is b2)'}
    >>> ids.recreated({})  # brokers before 2.8 have none: an id that is not known is no other
    {}
    """

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    @property
    def kept(self) -> dict[str, str]:
        return dict(self._kept)

    def keep(self, ids: Mapping[str, str]) -> None:
        """From here on our positions speak of these logs; of the other topics as before."""
        self._kept |= ids

    def recreated(self, now: Mapping[str, str]) -> dict[str, str]:
        """Topics whose name belongs to another log `now`, and what happened."""
        return {
            topic: f"the topic was deleted and created again (its id was {was}, it is {now[topic]})"
            for topic, was in self._kept.items()
            if now.get(topic, was) != was
        }
