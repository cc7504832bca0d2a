"""What is shipped for operators says only what the code can do: names, ports, exit codes, anchors."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from stream_trainer import errors
from stream_trainer.telemetry.metrics import Metrics
from stream_trainer.telemetry.names import METRICS
from stream_trainer.telemetry.series import Kind

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
RULES_TESTS = ("rules_test.yml", "rules_week_test.yml")
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text()
HISTOGRAMS = {family.name for family in METRICS if family.kind is Kind.HISTOGRAM}
OURS = {family.name for family in METRICS} | {
    name + suffix for name in HISTOGRAMS for suffix in ("_bucket", "_sum", "_count")
}
LABELS = {label for family in METRICS for label in family.labels}


def read_yaml(*parts):
    return yaml.safe_load(DEPLOY.joinpath(*parts).read_text())


def names_in(text):
    """Everything that looks like a metric: ours by the prefix, the process's by theirs."""
    return set(re.findall(r"\b(?:stream_trainer|process|python)_[a-z0-9_]+", text))


def exported():
    """Names of the series that our registry holds beside our own."""
    text = generate_latest(Metrics(models=["m"]).registry).decode()
    return OURS | set(re.findall(r"^(\w+)", text, flags=re.MULTILINE))


def alerts():
    return [rule for group in read_yaml("prometheus", "rules.yml")["groups"] for rule in group["rules"]]


def dashboard():
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def promtool(*arguments):
    """Runs it where the files lie; skips by name where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return subprocess.run([program, *arguments], cwd=RULES.parent, capture_output=True, text=True, timeout=120)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "file", ["prometheus/rules.yml", *(f"prometheus/{name}" for name in RULES_TESTS), "grafana/dashboard.json"]
)
def test_every_metric_that_is_asked_for_exists(file):
    """A query for a name that is gone returns nothing, and an alert on nothing never fires."""
    asked = names_in((DEPLOY / file).read_text())

    assert len(asked) > 1
    assert asked - exported() == set()


def test_every_metric_in_the_runbook_exists():
    """At night nobody wants to find out that the page names a metric of last year."""
    asked = {name for name in names_in(RUNBOOK) if name.startswith("stream_trainer_")}

    assert len(asked) > 10
    assert asked - OURS == set()


def test_the_dashboard_shows_most_of_what_is_exported():
    """A metric that no panel and no alert uses should have a reason; these are the ones that do."""
    used = names_in((DEPLOY / "grafana" / "dashboard.json").read_text()) | names_in(RULES.read_text())
    used |= {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    for_people_and_joins = {
        "stream_trainer_bytes_total",  # beside records, when a record changes its size
        "stream_trainer_last_record_timestamp_seconds",  # the age histogram says it better over time
        "stream_trainer_next_offset",  # to find a record
        "stream_trainer_checkpoint_last_step",  # to find a checkpoint
        "stream_trainer_config_info",
    }

    assert {family.name for family in METRICS} - used == for_people_and_joins


# ---------------------------------------------------------------- alerts


def test_every_alert_has_what_the_person_it_wakes_needs():
    """How urgent, what happened, where to read on, and a delay that forgives a restart."""
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert re.fullmatch(r"\d+m", rule["for"]), rule["alert"]
        assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{rule['alert'].lower()}"


def test_every_alert_has_its_section_in_the_runbook_and_no_section_is_left_over():
    """Meaning, where to look, what to do: all three, for each."""
    sections = dict(re.findall(r"^### (StreamTrainer\w+)\n(.*?)(?=^##)", RUNBOOK, flags=re.MULTILINE | re.DOTALL))

    assert sorted(rule["alert"] for rule in alerts()) == sorted(sections)
    assert [
        name for name, text in sections.items() for part in ("Means", "Look at", "Do") if f"**{part}**" not in text
    ] == []


def test_every_alert_is_tested_for_firing_and_for_keeping_quiet():
    """An alert that never fired in a test may never fire at all."""
    tests = [test for file in RULES_TESTS for test in read_yaml("prometheus", file)["tests"]]
    asked = [case for test in tests for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in asked if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in asked if not case.get("exp_alerts")}

    assert firing == quiet == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", *RULES_TESTS)],
    ids=" ".join,
)
def test_promtool_accepts(arguments):
    """The tool of Prometheus itself reads the rules, the configuration, and runs the tests of the rules."""
    result = promtool(*arguments)

    assert result.returncode == 0, result.stdout + result.stderr


# ---------------------------------------------------------------- dashboard


def test_the_dashboard_is_what_the_script_writes():
    """Edited by hand it would be overwritten; changed in the script it would be forgotten."""
    path = DEPLOY / "grafana" / "make_dashboard.py"
    spec = importlib.util.spec_from_file_location("make_dashboard", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.text() == (DEPLOY / "grafana" / "dashboard.json").read_text()


def test_every_panel_explains_itself():
    """Title, meaning, unit; the data source and the instance are chosen, not written in."""
    for panel in panels():
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        for target in panel["targets"]:
            assert '{job=~"$job", instance=~"$instance"' in target["expr"], panel["title"]
            assert target["legendFormat"], panel["title"]


def test_no_two_panels_share_a_place_or_a_number():
    """Grafana would draw one over the other."""
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    numbers = [panel["id"] for panel in dashboard()["panels"]]

    assert len(set(cells)) == len(cells)
    assert len(set(numbers)) == len(numbers)
    assert max(x for x, _ in cells) == 23


def test_legends_and_groupings_use_labels_that_exist():
    """A legend of a label that is not there is an empty legend."""
    used = {
        label for panel in panels() for t in panel["targets"] for label in re.findall(r"{{(\w+)}}", t["legendFormat"])
    }

    assert used - LABELS - {"instance", "job"} == set()


# ---------------------------------------------------------------- runbook, container, cluster


def test_the_runbook_knows_every_exit_code():
    """A supervisor and a person decide by it."""
    codes = {getattr(errors, name).exit_code for name in errors.__all__} | {0}
    table = RUNBOOK.split("## Exit codes")[1].split("\n## ")[0]

    assert sorted(codes) == sorted(int(code) for code in re.findall(r"^\| (\d) \|", table, flags=re.MULTILINE))


def test_links_inside_the_runbook_lead_somewhere():
    """Anchors and files."""
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", RUNBOOK, re.M)
    }
    links = re.findall(r"\]\(([^)]+)\)", RUNBOOK)

    assert [link for link in links if link.startswith("#") and link[1:] not in anchors] == []
    assert [link for link in links if not link.startswith("#") and not (DEPLOY / link).exists()] == []


def test_compose_publishes_on_this_machine_only():
    """Nothing in it has a password."""
    services = read_yaml("compose.yaml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert len(ports) >= 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_files_that_compose_mounts_exist():
    """Docker makes a directory of a file that is missing, and the container fails with a riddle."""
    mounts = [
        volume for service in read_yaml("compose.yaml")["services"].values() for volume in service.get("volumes", [])
    ]
    paths = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]

    assert len(paths) >= 4
    assert [path for path in paths if not (DEPLOY / path).exists()] == []


def test_the_container_is_not_root_and_hears_signals_itself():
    """Exec form: with a shell as process 1, SIGTERM would end the shell and learning would be killed."""
    text = (DEPLOY / "Dockerfile").read_text()

    assert 'ENTRYPOINT ["stream-trainer"]' in text
    assert 'CMD ["run", "/config/run.yaml"]' in text
    assert "\nUSER 10001:10001\n" in text
    assert "/livez" in text


def test_nobody_kills_before_the_last_checkpoint_is_written():
    """The time to stop must fit into the patience of whoever sends the signal."""
    pod = read_yaml("kubernetes", "statefulset.yaml")["spec"]["template"]["spec"]
    run = yaml.safe_load(read_yaml("kubernetes", "configmap.yaml")["data"]["run.yaml"])

    assert run["limits"]["stop_s_max"] < pod["terminationGracePeriodSeconds"]
    assert read_yaml("compose.yaml")["services"]["trainer"]["stop_grace_period"] == "60s"  # default stop_s_max: 25


def test_one_model_has_one_writer_in_the_cluster():
    """Two replicas would fence each other for ever."""
    spec = read_yaml("kubernetes", "statefulset.yaml")["spec"]

    assert spec["replicas"] == 1
    assert spec["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_the_members_of_a_group_share_one_volume_and_run_like_a_single_trainer():
    """A volume each would teach records twice; and what protects the pod of one trainer protects theirs."""
    group = read_yaml("kubernetes/group", "statefulset.yaml")["spec"]
    alone = read_yaml("kubernetes", "statefulset.yaml")["spec"]
    volume = read_yaml("kubernetes/group", "volume.yaml")
    pod = group["template"]["spec"]

    assert "volumeClaimTemplates" not in group
    assert ["ReadWriteMany"] == volume["spec"]["accessModes"]
    assert {"claimName": volume["metadata"]["name"]} in [each.get("persistentVolumeClaim") for each in pod["volumes"]]
    assert alone["template"]["spec"]["securityContext"] == pod["securityContext"]
    ours, theirs = alone["template"]["spec"]["containers"][0], pod["containers"][0]
    assert {**ours, "volumeMounts": None} == {**theirs, "volumeMounts": None}


def test_the_cluster_files_name_each_other():
    """Selectors, config and service by the same name, or nothing finds anything."""
    labels = {"app.kubernetes.io/name": "stream-trainer", "app.kubernetes.io/instance": "flights"}
    files = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))}
    template = files["statefulset"]["spec"]["template"]

    assert {file["metadata"]["name"] for file in files.values()} == {"stream-trainer-flights"}
    assert template["metadata"]["labels"] == labels
    assert files["service"]["spec"]["selector"] == labels
    assert files["poddisruptionbudget"]["spec"]["selector"]["matchLabels"] == labels
    assert files["statefulset"]["spec"]["serviceName"] == files["service"]["metadata"]["name"]
    assert template["spec"]["volumes"][0]["configMap"]["name"] == files["configmap"]["metadata"]["name"]


def test_the_shipped_runs_are_valid(monkeypatch, tmp_path):
    """What an operator copies first must load."""
    from stream_trainer.service.config import load_config

    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    in_cluster = tmp_path / "run.yaml"
    in_cluster.write_text(read_yaml("kubernetes", "configmap.yaml")["data"]["run.yaml"])

    for path in (DEPLOY / "trainer.yaml", in_cluster):
        config = load_config(path)
        assert config.name == "flights"
        assert config.telemetry.port == 9464
