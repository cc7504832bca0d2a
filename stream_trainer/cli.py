"""The command line: thin, for everything it does is somewhere else.

Standard output carries results (tables, and with --json one last line of JSON); everything else goes to standard error.
Exit codes: 0 done, 2 configuration, 3 data lost, 4 too many bad records, 5 stalled, 6 fenced, 1 anything else.
"""

import json
import logging
import os
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream_trainer.errors import ConfigError, StreamTrainerError
from stream_trainer.service.drift_bench_command import drift_bench

__all__ = ["app", "main"]

# Only light imports above: `--help` and a typing error should not wait for torch.
app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)
checkpoints = typer.Typer(no_args_is_help=True, help="Look at checkpoints without loading them.")
app.add_typer(checkpoints, name="checkpoints")
app.command("drift-bench")(drift_bench)
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: count them, look at them, hand them back.")
app.add_typer(dlq, name="dlq")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="the YAML file of the run")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="replace one value; may be repeated")]
AsJson = Annotated[bool, typer.Option("--json", help="print the summary as the last line")]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error")]


def main() -> None:
    """Entry point: runs a command and turns our errors into one line and an exit code."""
    sys.path.insert(0, os.getcwd())  # `module: my_nets:build` is looked for where the user stands, as with python -m
    try:
        app()
    except StreamTrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    until_end: Annotated[bool, typer.Option("--until-end", help="stop where the log ended at start")] = False,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
) -> None:
    """Learn from the source of CONFIG, for ever."""
    _log_to_stderr(log_level)
    from stream_trainer.service.config import load_config
    from stream_trainer.service.runs import run_service

    _finish(run_service(load_config(config, overrides), until_end=until_end), as_json)


@app.command()
def replay(
    config: ConfigPath,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="JSON lines or CSV, also .gz; - for standard input")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    format: Annotated[str | None, typer.Option(help="jsonl or csv, where the suffix does not say it")] = None,
    journal: Annotated[
        str | None, typer.Option(metavar="DIR", help="instead of FILE: checkpoint.directory of a run to rebuild")
    ] = None,
    until_step: Annotated[
        int | None, typer.Option(min=1, help="with --journal: rebuild this step; default: the newest checkpoint")
    ] = None,
    from_checkpoint: Annotated[
        int | None, typer.Option(metavar="STEP", help="with --journal: begin with this checkpoint, not with nothing")
    ] = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> None:
    """Learn from FILE instead of the source; or learn a run again, batch by batch, and compare the state.

    The same engine, no traces: nothing is kept but the summary. With --journal the records come from the source of
    CONFIG and the batches from the journal; exit code 1 if a model is not equal to its checkpoint in every bit.
    """
    _log_to_stderr(log_level)
    from stream_trainer.service.config import load_config
    from stream_trainer.service.rebuild import rebuild
    from stream_trainer.service.runs import run_service
    from stream_trainer.service.wiring import open_file

    if (file is None) == (journal is None):
        raise ConfigError("replay: expected exactly one of FILE and --journal DIR.")
    if file is not None and (until_step, from_checkpoint) != (None, None):
        raise ConfigError("replay: --until-step and --from-checkpoint belong to --journal.")
    loaded = load_config(config, overrides)
    if file is not None:
        source = open_file(loaded, file, format)
        _finish(run_service(loaded, replay=source), as_json)
    if journal is not None:
        summary = rebuild(loaded, journal, from_step=from_checkpoint, until_step=until_step)
        _finish(summary, as_json)
        if not all((summary["rebuilt"]["equal"] or {}).values()):
            raise typer.Exit(1)


@app.command()
def demo(
    records: Annotated[int | None, typer.Option(min=1, help="stop after so many flights")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="stop after so many seconds")] = None,
    rate: Annotated[float | None, typer.Option(min=1, help="flights per second; as fast as they are learned")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of /metrics; 0: any free one")] = 9464,
    only: Annotated[str | None, typer.Option(help="train this model alone, for example mlp_layer")] = None,
    as_json: AsJson = False,
) -> None:
    """A year of real flights through an embedded broker into three models, live."""
    from stream_trainer.demo.app import run_demo

    _finish(run_demo(records_max=records, seconds_max=seconds, rate_per_s=rate, port=port, only=only), as_json)


@app.command()
def validate(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    schema: Annotated[
        bool, typer.Option("--json-schema", help="print the JSON Schema of configurations instead")
    ] = False,
) -> None:
    """Check CONFIG, build its models, and print it as it will be used, secrets hidden."""
    from stream_trainer.service.config import json_schema, load_config
    from stream_trainer.service.runs import check_buildable, readable

    if schema:
        print(json.dumps(json_schema(), indent=2))
        return
    loaded = load_config(config, overrides)
    check_buildable(loaded)
    print(readable(loaded), end="")


@app.command()
def doctor(config: ConfigPath, overrides: Overrides = []) -> None:  # noqa: B006
    """Can this run work here? Broker, codecs, topic, clock, directories."""
    _log_to_stderr("error")
    from stream_trainer.service.config import load_config
    from stream_trainer.service.doctor import examine

    table = Table("check", "", "finding", box=None)
    findings = list(examine(load_config(config, overrides)))
    for finding in findings:
        verdict = Text("ok", "green") if finding.ok else Text("no", "red")
        table.add_row(finding.check, verdict, Text(finding.text))  # Text: a message may hold square brackets
    Console().print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


# ---------------------------------------------------------------- checkpoints

Directory = Annotated[str, typer.Argument(metavar="DIR", help="checkpoint.directory of a run")]
Step = Annotated[int, typer.Argument(metavar="STEP", help="batches learned, as `checkpoints list` shows them")]


@checkpoints.command("list")
def list_checkpoints(directory: Directory) -> None:
    """Newest first; manifests are read, files are not."""
    _print_checkpoints(directory, verify=False)


@checkpoints.command()
def verify(directory: Directory) -> None:
    """Read every byte and compare it with the manifest. Exit code 1 if anything differs."""
    _print_checkpoints(directory, verify=True)


@checkpoints.command()
def show(
    directory: Directory, step: Annotated[int | None, typer.Option(help="batches learned; default: the newest")] = None
) -> None:
    """The manifest of one checkpoint."""
    from stream_trainer.checkpoints.directory import describe

    found = [info for info in _infos(directory, verify=False) if step is None or info.step == step]
    if not found:
        raise StreamTrainerError(f"{directory}: no checkpoint{'' if step is None else f' of step {step}'}.")
    print(describe(found[0]))


@checkpoints.command()
def pin(directory: Directory, step: Step) -> None:
    """Keep one checkpoint for ever, whatever checkpoint.keep says. Works while the run goes on."""
    _opened(directory).pin(step)


@checkpoints.command()
def unpin(directory: Directory, step: Step) -> None:
    """Leave a checkpoint to the rules again."""
    _opened(directory).unpin(step)


def _print_checkpoints(directory: str, *, verify: bool) -> None:
    table = Table("step", "records", "saved", "bytes", "", "verified" if verify else "problem", box=None)
    infos = _infos(directory, verify=verify)
    for info in infos:
        body = info.body
        size = sum(entry["bytes"] for entry in body["files"].values()) if body else 0
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(body["saved_at_s"])) if body else "?"
        consumed = f"{body['counts']['consumed']:,}" if body else "?"
        verdict = Text(info.problem or ("yes" if verify else "-"))
        table.add_row(str(info.step), consumed, saved, f"{size:,}", "pinned" if info.pinned else "", verdict)
    Console().print(table)
    if any(info.problem for info in infos):
        raise typer.Exit(1)


def _infos(directory: str, *, verify: bool) -> list[Any]:
    return list(_opened(directory).infos(verify=verify))


def _opened(directory: str) -> Any:
    from stream_trainer.checkpoints import CheckpointDirectory, is_object_store

    if not is_object_store(directory) and not Path(directory).is_dir():
        raise StreamTrainerError(f"{directory}: no such directory.")
    return CheckpointDirectory(directory, identity={}, versions={})


# ---------------------------------------------------------------- dead letters

Letters = Annotated[Path, typer.Argument(metavar="CONFIG|FILE", help="the YAML file of a run, or its dead letters")]
Reason = Annotated[str | None, typer.Option("--reason", help="only these, for example wrong_type")]


@dlq.command("list")
def list_letters(where: Letters, overrides: Overrides = [], as_json: AsJson = False) -> None:  # noqa: B006
    """How many, by reason, topic and partition."""
    from stream_trainer.service.dead_letter_queue import count_letters

    rows = count_letters(_letters_at(where, overrides))
    if as_json:
        print(json.dumps({"letters": sum(row["letters"] for row in rows), "groups": rows}))
        return
    names = ("letters", "reason", "topic", "partition", "first_offset", "last_offset", "first_time", "last_time")
    table = Table(*(name.replace("_", " ") for name in names), box=None)
    for row in rows:
        table.add_row(*(Text("-" if row[name] is None else str(row[name])) for name in names))
    Console().print(table)


@dlq.command("show")
def show_letters(
    where: Letters,
    overrides: Overrides = [],  # noqa: B006
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 10,
    offset: Annotated[int | None, typer.Option(min=0, help="only the record with this offset")] = None,
) -> None:
    """The letters themselves, a JSON object a line; what is named like a secret is hidden."""
    from stream_trainer.service.dead_letter_queue import letters_of, show_letter

    letters = letters_of(_letters_at(where, overrides), reason=reason)
    wanted = (letter for letter in letters if offset in (None, letter.offset))
    for letter in islice(wanted, limit):
        print(json.dumps(show_letter(letter)))


@dlq.command()
def retry(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    reason: Reason = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="decode and count, change nothing")] = False,
) -> None:
    """Decode them again with CONFIG as it is now, and hand back those that are good: each once."""
    _log_to_stderr("warning")
    from stream_trainer.service.config import load_config
    from stream_trainer.service.dead_letter_retry import retry_letters

    print(json.dumps(retry_letters(load_config(config, overrides), reason=reason, dry_run=dry_run)))


def _letters_at(where: Path, overrides: list[str]) -> Any:
    from stream_trainer.service.config import load_config

    return load_config(where, overrides) if where.suffix in (".yaml", ".yml") else where


# ---------------------------------------------------------------- output


def _finish(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary), flush=True)


def _log_to_stderr(level: str) -> None:
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise StreamTrainerError(f"--log-level {level}: expected debug, info, warning or error.")
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    logging.getLogger("stream_trainer").setLevel(level.upper())
