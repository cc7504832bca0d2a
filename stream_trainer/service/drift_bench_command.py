"""The options of `stream-trainer drift-bench`, and the files it writes; the work is in drift_bench.py."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from stream_trainer.errors import ConfigError

__all__ = ["drift_bench"]

# Only light imports above: `--help` and a typing error should not wait for torch.


def drift_bench(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="whose models learn FILE")] = None,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="a table of yours: JSON lines or CSV")] = None,
    overrides: Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="replace one value of CONFIG")] = [],  # noqa: B006
    detectors: Annotated[
        str, typer.Option(help="as in drift.error, with commas between: 'adwin, cusum: {min_effect: 0}'")
    ] = "weighted_adwin,cusum,adwin,page_hinkley,ddm,hddm_a",
    streams: Annotated[
        str | None, typer.Option(help="shifts, losses, generators, controls, or streams by name, * for any letters")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="records; a detector is heard at the end of its batch")] = 256,
    worse_only: Annotated[bool, typer.Option("--worse-only", help="hear detectors only when errors rise")] = False,
    runs: Annotated[int, typer.Option(min=1, help="streams of each kind")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="of the first stream")] = 0,
    records: Annotated[int, typer.Option(min=1, help="rows of FILE, drawn for each run")] = 20_000,
    records_per_s: Annotated[float, typer.Option(min=0.001, help="turns run lengths into hours")] = 1_000.0,
    csv: Annotated[Path | None, typer.Option(help="write a line for each detector and stream")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write what is printed")] = None,
    figure: Annotated[Path | None, typer.Option(help="write delays against false alarms: .svg, .png or .pdf")] = None,
) -> None:
    """Which drift detector, and how sure? Delays and false alarms on streams whose changes are known.

    With CONFIG and FILE on records of your own: rows in random order, one change put in, learned by your models.
    """
    if (config is None) != (file is None):
        raise ConfigError("drift-bench: expected CONFIG and FILE, or neither.")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    from stream_trainer.service.config import load_config
    from stream_trainer.service.drift_bench import measure_costs, parse_rows, run_cases
    from stream_trainer.service.drift_bench_cases import chosen_cases, standard_cases, table_cases
    from stream_trainer.service.drift_bench_report import csv_text, markdown_text, require_matplotlib, write_figure

    if figure is not None:
        require_matplotlib()
    rows = parse_rows(detectors, batch_records=batch, worse_only=worse_only)
    if config is not None and file is not None:
        cases = table_cases(load_config(config, overrides), file, records_max=records, batch_records=batch)
    else:
        cases = standard_cases(batch)
    if streams is not None:
        cases = chosen_cases(cases, [pattern.strip() for pattern in streams.split(",")])
    lines = run_cases(cases, rows, runs=runs, seed=seed)
    costs = measure_costs(rows, batch_records=batch)
    text = markdown_text(lines, costs, records_per_s=records_per_s, batch_records=batch)
    print(text)
    if markdown is not None:
        markdown.write_text(text)
    if csv is not None:
        csv.write_text(csv_text(lines, costs, records_per_s=records_per_s))
    if figure is not None:
        write_figure(lines, figure)
