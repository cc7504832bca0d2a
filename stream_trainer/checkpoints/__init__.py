"""Snapshots on disk or in an object store: written whole or not at all, verified before they are believed."""

from stream_trainer.checkpoints.directory import CheckpointDirectory, CheckpointInfo
from stream_trainer.checkpoints.journal import BatchJournal
from stream_trainer.checkpoints.store import is_object_store
from stream_trainer.checkpoints.stored_journal import StoredJournal
from stream_trainer.checkpoints.writer import BackgroundWriter, Saved

__all__ = [
    "BackgroundWriter",
    "BatchJournal",
    "CheckpointDirectory",
    "CheckpointInfo",
    "Saved",
    "StoredJournal",
    "is_object_store",
]
