"""The README is the first thing that is read and the last that is checked: here by a machine."""

import re
from pathlib import Path

import yaml

from stream_trainer.norms import NORMS
from stream_trainer.service.config import check_config
from stream_trainer.telemetry.names import metrics_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_metric_list_is_the_code_s():
    """Regenerate it with `python tests/unit/test_readme.py`."""
    assert metrics_table() in README


def test_every_file_it_names_exists():
    """A claim points at a script or a result; it must be there."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    paths = re.findall(r"`((?:tests|configs|deploy|stream_trainer|\.ci)/[\w./-]*)`", README)

    assert links
    assert [path for path in [*links, *paths] if not (ROOT / path).exists()] == []


def test_the_configuration_it_shows_is_valid():
    """Whoever copies it should not have to mend it."""
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)

    config = check_config(yaml.safe_load(text), "README.md")
    assert ["mlp", "tree", "mine"] == list(config.models)


def test_every_norm_is_listed():
    """And no other."""
    sentence = re.search(r"^`none` `layer`.*$", README, re.MULTILINE).group()

    assert NORMS.keys() <= set(re.findall(r"`(\w+)`", sentence))


def test_nothing_is_left_to_fill_in():
    """Placeholders are for drafts."""
    assert "@@" not in README


if __name__ == "__main__":
    pattern = re.compile(r"(<!-- metrics: [^\n]*-->\n).*?(<!-- /metrics -->)", re.DOTALL)
    (ROOT / "README.md").write_text(pattern.sub(rf"\1{metrics_table()}\2", README))
