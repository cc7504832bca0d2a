"""May this user be a member of its Kafka group? Asked of the broker without joining, which would move partitions.

The rights on the topic show themselves when records are read; those on a group only when it is joined or committed to.
"""

import time
from typing import Any

from kafka import errors as kafka_errors
from kafka.admin import KafkaAdminClient

from stream_trainer.errors import ConfigError, Stalled
from stream_trainer.streams.kafka_options import KafkaOptions, client_settings

__all__ = ["check_group_rights", "group_not_allowed"]

ASK_S_MAX = 10.0
RETRY_S = 0.2


def check_group_rights(options: KafkaOptions, group_id: str) -> str:
    """What the broker lets this user do with the group, in a sentence.

    Raises: ConfigError: it may not be joined or committed to, and what to grant; Stalled: no answer.
    """
    try:
        found = _describe(options, group_id)
    except kafka_errors.GroupAuthorizationFailedError as error:
        raise group_not_allowed(group_id, "this user may not even see it") from error
    except (kafka_errors.KafkaError, OSError) as error:
        raise Stalled(
            f"Kafka at {options.bootstrap_servers} does not say who may use the group {group_id}: "
            f"{type(error).__name__}: {error}."
        ) from error
    allowed = {str(operation) for operation in found.get("authorized_operations") or ()}
    if found.get("error") or not allowed:  # the broker tells the rights on groups that are there
        return f"the Kafka group {group_id} is not there yet; this user may see it"
    if not allowed & {"READ", "ALL"}:
        raise group_not_allowed(group_id, f"this user has only {', '.join(sorted(allowed))}")
    return f"this user may join and commit to the Kafka group {group_id}"


def _describe(options: KafkaOptions, group_id: str) -> dict[str, Any]:
    settings = client_settings(options) | {"bootstrap_timeout_ms": round(ASK_S_MAX * 1000)}
    client = KafkaAdminClient(**{key: settings[key] for key in settings.keys() & KafkaAdminClient.DEFAULT_CONFIG})
    until_s = time.monotonic() + ASK_S_MAX
    try:
        while True:
            try:
                described: dict[str, Any] = client.describe_groups([group_id])[group_id]
                return described
            except kafka_errors.CoordinatorNotAvailableError:  # the first group of a cluster: it makes room for them
                if time.monotonic() >= until_s:
                    raise
                time.sleep(RETRY_S)
    finally:
        client.close()


def group_not_allowed(group_id: str, why: str) -> ConfigError:
    """What to tell whoever may not use the group: starting again does not help, granting does."""
    return ConfigError(
        f"Not allowed to join or commit to the Kafka group {group_id}: {why}. Grant this user Read on the group, for "
        f"example with kafka-acls --add --operation Read --group {group_id} --allow-principal User:NAME."
    )
