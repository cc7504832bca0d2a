"""What doctor says of the directory that a group shares."""

import os

from test_group_config import GROUP, checked

from stream_trainer.service import doctor
from stream_trainer.service.doctor import examine


def finding(tmp_path, directory):
    config = checked(GROUP, servers="127.0.0.1:1", directory=str(tmp_path / directory))
    return next(found for found in examine(config) if found.check == "source.kafka.group")


def test_a_shared_directory_is_tried_and_left_as_it_was(tmp_path):
    """Locks, links and renames are what claims and fences are made of."""
    (tmp_path / "state").mkdir()
    found = finding(tmp_path, "state")

    assert found.ok
    assert "locks, links and renames" in found.text
    assert [] == os.listdir(tmp_path / "state")


def test_a_directory_that_is_not_mounted_is_told(tmp_path):
    """Made on the fly it would be this machine's own, and the group would have two truths."""
    found = finding(tmp_path, "state")

    assert not found.ok
    assert "mount what all members share" in found.text


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    """Two standbys would both be active."""
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(doctor.fcntl, "flock", lambda file, how: None)

    assert "two processes get one lock" in finding(tmp_path, "state").text


def test_a_file_system_without_links_is_told(tmp_path, monkeypatch):
    """Two members could make the same link of a chain."""

    def refuse(*paths):
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "state").mkdir()
    monkeypatch.setattr(doctor.os, "link", refuse)

    assert "must lock, link and rename: Operation not permitted" in finding(tmp_path, "state").text
