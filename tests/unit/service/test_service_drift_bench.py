"""`stream-trainer drift-bench`: what it says about rows one knows, on streams of ours and on a table of the user's."""

import csv
import io
import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from stream_trainer.cli import app
from stream_trainer.drift.evaluate import Verdict, errors_with_changes
from stream_trainer.errors import ConfigError
from stream_trainer.schema import Target, TargetKind
from stream_trainer.service.config import load_config
from stream_trainer.service.drift_bench import Cost, Line, Row, measure_costs, parse_rows, run_cases
from stream_trainer.service.drift_bench_cases import Case, chosen_cases, standard_cases, table_cases
from stream_trainer.service.drift_bench_report import csv_text, markdown_text, write_figure


def case(name="c", target=None, group="g"):
    """4,000 errors of .1, then 4,000 of .5."""
    return Case(
        group=group,
        name=name,
        target=target or Target.binary("y"),
        horizon_records=4000,
        stream=lambda seed: errors_with_changes((4000, 0.1), (4000, 0.5), seed=seed),
    )


def verdict(**changes):
    numbers = {"delays": (10, 20), "n_missed": 2, "n_false": 4, "stable_records": 200_000, "horizon_records": 100}
    return Verdict(**(numbers | changes))


# ---------------------------------------------------------------- rows and cases


def test_rows_are_written_as_in_a_configuration():
    plain, tuned = parse_rows("adwin, weighted_adwin: {delta: 0.01, min_effect: 0}", batch_records=64)

    assert ("adwin", "adwin", {}, 64) == (plain.label, plain.detector, plain.options, plain.batch_records)
    assert ("weighted_adwin delta=0.01 min_effect=0", {"delta": 0.01, "min_effect": 0}) == (tuned.label, tuned.options)
    assert 0.01 == tuned.build(Target.binary("y")).options.delta


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("adwim", "known detectors: adwin"),
        ("adwin: {dleta: 1}", "unknown option dleta"),
        ("adwin: [", "--detectors 'adwin: ['"),
        ("7", "expected a name, or name: {option: value}; found 7"),
        ("", "expected at least one detector"),
    ],
)
def test_rows_that_cannot_be_built_are_refused_before_any_work(text, sentence):
    with pytest.raises(ConfigError) as caught:
        parse_rows(text, batch_records=64)
    assert sentence in str(caught.value)


def test_each_case_has_every_row_and_the_three_that_every_table_needs():
    lines = run_cases([case("a"), case("b")], parse_rows("weighted_adwin,ddm", batch_records=100), runs=2, seed=0)
    by_label = {line.label: line.verdict for line in lines if line.case.name == "a"}

    assert ["weighted_adwin", "ddm", "never", "every 1,000", "oracle"] == list(by_label)
    assert 10 == len(lines)
    assert ((), 2) == (by_label["never"].delays, by_label["never"].n_missed)
    assert [(100, 100), (1000, 1000)] == [by_label[label].delays for label in ("oracle", "every 1,000")]
    assert (0, 8) == (by_label["oracle"].n_false, by_label["every 1,000"].n_false)
    assert all(100 <= delay < 1000 for delay in by_label["weighted_adwin"].delays)


def test_detectors_of_shares_are_not_judged_on_losses():
    """Clipped at 1, a loss is another value; a number there would be read as the detector's."""
    number = Target(name="delay", kind=TargetKind.NUMBER)
    lines = run_cases([case(target=number)], parse_rows("hddm_a,adwin", batch_records=100), runs=1, seed=0)

    assert [True, False] == [line.verdict is None for line in lines[:2]]
    assert "| hddm_a | – | – | – | – | – | – |" in markdown_text(lines, (), records_per_s=1, batch_records=100)


def test_worse_only_silences_recovery():
    up_and_down = Case(
        group="g",
        name="c",
        target=Target.binary("y"),
        horizon_records=1000,
        stream=lambda seed: errors_with_changes((4000, 0.5), (4000, 0.1), seed=seed),
    )
    both = Row(label="both", detector="adwin", options={}, batch_records=1)
    worse = Row(label="worse", detector="adwin", options={}, batch_records=1, worse_only=True)
    found = [line.verdict.n_missed for line in run_cases([up_and_down], [both, worse], runs=1, seed=1)[:2]]

    assert [0, 1] == found


def test_standard_streams_are_what_their_names_say():
    cases = {case.name: case for case in standard_cases(256)}
    shift = cases["shift-0.15-after-100k"].stream(3)
    loss = cases["losses-x2"].stream(3)

    assert {"shifts", "losses", "generators", "controls"} == {case.group for case in cases.values()}
    assert (100_000,) == shift.changes
    assert [0.1, 0.15] == pytest.approx([part.mean() for part in np.split(shift.values_N, shift.changes)], abs=0.005)
    assert 2.0 == pytest.approx(loss.values_N[20_000:].mean() / loss.values_N[:20_000].mean(), rel=0.05)
    assert all(not cases[name].stream(0).changes for name in ("iid", "wandering-0.005", "seasonal-0.02"))


def test_cases_are_chosen_by_group_or_name_and_a_wrong_one_is_answered_with_all():
    cases = standard_cases(256)

    assert ["shift-0.30-after-5k", "sea"] == [c.name for c in chosen_cases(cases, ["sea", "shift-0.3*5k"])]
    assert {"controls"} == {c.group for c in chosen_cases(cases, ["controls"])}
    with pytest.raises(ConfigError, match=r"--streams see: fits none of the groups shifts, .* names .*sea"):
        chosen_cases(cases, ["see"])


# ---------------------------------------------------------------- a table of the user's own


@pytest.fixture
def own(tmp_path):
    """own(rows, target) -> CONFIG and FILE: the class is the sign of a sum, the rows are sorted by it."""

    def write(rows=6000, target="binary"):
        rng = np.random.default_rng(5)
        x = rng.normal(size=(rows, 2))
        order = np.argsort(x.sum(axis=1))
        y = (x.sum(axis=1) > 0.3) * 1 if target == "binary" else x.sum(axis=1).round(3)
        lines = [f"{x[i, 0]:.4f},{x[i, 1]:.4f},{y[i]}" for i in order]
        file = tmp_path / "mine.csv"
        file.write_text("\n".join(["a,b,y", *lines, "not,a,row"]) + "\n")
        kind = "Logistic" if target == "binary" else "Linear"
        config = tmp_path / "run.yaml"
        run = {
            "name": "mine",
            "source": {"file": {"path": str(file)}},
            "schema": {"features": {"a": "number", "b": "number"}, "target": {"y": target}},
            "models": {"line": {"river": {"estimator": f"river.linear_model.{kind}Regression"}}},
        }
        config.write_text(yaml.safe_dump(run))
        return config, file

    return write


def test_changes_in_a_table_of_ones_own_are_found_by_the_users_model_and_none_without(own):
    """The rows lie sorted: only in random order can what is not put in be a false alarm."""
    config, file = own()
    cases = table_cases(load_config(config), str(file), records_max=20_000, batch_records=50)
    lines = run_cases(cases, parse_rows("weighted_adwin", batch_records=50), runs=1, seed=0)
    found = {line.case.name: line.verdict for line in lines if line.label == "weighted_adwin"}

    assert ["line-unchanged", "line-class_prior", "line-feature_permutation", "line-label_swap"] == list(found)
    assert (0, 0) == (found["line-unchanged"].n_changes, found["line-unchanged"].n_false)
    assert 6000 == found["line-unchanged"].stable_records  # the row that cannot be decoded is left out
    assert found["line-label_swap"].delays[0] < 500
    assert found["line-feature_permutation"].delays[0] < 1500
    assert {3000} == {verdict.horizon_records for verdict in found.values()}


def test_a_table_of_a_number_has_its_features_permuted_only(own):
    config, file = own(target="number")
    cases = table_cases(load_config(config), str(file), records_max=3000, batch_records=500)

    assert ["line-unchanged", "line-feature_permutation"] == [case.name for case in cases]
    stream = cases[1].stream(1)
    assert ((1500,), 3000) == (stream.changes, len(stream.values_N))
    assert stream.values_N[2000:].mean() > 1.3 * stream.values_N[1000:1500].mean()


def test_a_table_of_few_rows_is_refused(own):
    config, file = own(rows=1999)
    with pytest.raises(ConfigError, match=r"mine.csv: 1,999 rows could be decoded; expected at least 2,000"):
        table_cases(load_config(config), str(file), records_max=20_000, batch_records=50)


# ---------------------------------------------------------------- costs and reports


def test_costs_are_of_each_row_beside_the_step():
    costs = measure_costs(parse_rows("weighted_adwin,hddm_w", batch_records=16), batch_records=16, rounds=5)

    assert ["weighted_adwin", "hddm_w"] == [cost.label for cost in costs]
    assert all(cost.record_us > 0 and cost.relative_overhead > 1 for cost in costs)


LINES = [
    Line(case=case("early"), label="d", verdict=verdict()),
    Line(case=case("late"), label="d", verdict=verdict(delays=(), n_missed=4, n_false=0)),
    Line(case=case("calm", group="controls"), label="d", verdict=verdict(delays=(), n_missed=0, n_false=0)),
]
COSTS = [Cost(label="d", record_us=0.25, relative_overhead=1.0125)]


def test_markdown_shows_delays_misses_false_alarms_run_lengths_and_costs():
    text = markdown_text(LINES, COSTS, records_per_s=100, batch_records=256)

    assert (
        "| detector | early | late | found | NDT | F | run length | hours |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| d | 15 / 20 (2 missed) | – (4 missed) | 2 of 8 | 0.787 | 1.00 | 100,000 | 0.28 |\n"
    ) in text
    assert "| d | F 0.00 | – | – | 0.00 | > 200,000 | > 0.56 |\n" in text
    assert "| d | 0.250 | 1.012 |\n" in text
    assert "hours at\n100 records/s." in text


def test_csv_has_a_line_for_each_number_that_markdown_rounds():
    early, late, calm = csv.DictReader(io.StringIO(csv_text(LINES, COSTS, records_per_s=100)))

    assert ("g", "early", "d", "4", "2", "15", "0.575", "2", "50000", "1.0125") == tuple(
        early[key]
        for key in (
            "group", "stream", "detector", "changes", "missed", "delay_median", "normalised_detection_time",
            "false_per_100k", "run_length_records", "relative_runtime_overhead",
        )
    )  # fmt: skip
    assert ("", "1", "inf") == (late["delay_median"], late["normalised_detection_time"], late["run_length_hours"])
    assert "" == calm["normalised_detection_time"]


def test_the_figure_has_a_panel_for_each_group_with_changes(tmp_path):
    pytest.importorskip("matplotlib")
    write_figure(LINES, tmp_path / "a.svg")
    write_figure(LINES, tmp_path / "b.svg")
    drawn = (tmp_path / "a.svg").read_text()

    assert "<!-- g -->" in drawn
    assert "<!-- controls -->" not in drawn
    assert drawn == (tmp_path / "b.svg").read_text()
    with pytest.raises(ConfigError, match="none of the chosen streams has a change"):
        write_figure(LINES[2:], tmp_path / "c.svg")


def test_without_matplotlib_the_figure_is_refused_before_any_work(monkeypatch, tmp_path):
    """Minutes of streams, and then an ImportError: that is what this is for."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(app, ["drift-bench", "--figure", str(tmp_path / "a.svg")])

    assert isinstance(result.exception, ConfigError)
    assert "--figure needs matplotlib: pip install 'stream-trainer[report]'." == str(result.exception)


def test_the_command_prints_and_writes_what_it_found(own, tmp_path):
    config, file = own(rows=2500)
    files = [f"--{kind}={tmp_path / kind}" for kind in ("csv", "markdown")]
    choice = ["--streams=*swap", "--detectors=adwin", "--runs=1", "--batch=100", "--records=2200"]
    result = CliRunner().invoke(app, ["drift-bench", str(config), str(file), *choice, *files])

    assert 0 == result.exit_code, result.output
    assert "## table: horizon 1,100 records" in result.stdout
    assert (tmp_path / "markdown").read_text() in result.stdout
    rows = list(csv.DictReader((tmp_path / "csv").open()))
    assert ["adwin", "never", "every 1,000", "oracle"] == [row["detector"] for row in rows]
    assert {"line-label_swap"} == {row["stream"] for row in rows}


def test_config_and_file_come_together(own):
    result = CliRunner().invoke(app, ["drift-bench", str(own()[0])])

    assert "drift-bench: expected CONFIG and FILE, or neither." == str(result.exception)
