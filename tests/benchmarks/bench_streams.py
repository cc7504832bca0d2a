"""How good are the models on real streams, beside River's tree and logistic regression, and beside guessing?

Elec2, NOAA weather (../shared/data) and the demo's flights, each in its own order, once, through the engine of
`replay`: all models predict the batch before any of them learns it. One setting for all streams.

    python tests/benchmarks/bench_streams.py --batch 16 [--seed 1 --streams flights --models mlp_layer_adam_1e-3]
"""

import argparse
import platform
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch

from stream_trainer.demo.flights import produce
from stream_trainer.service.config import check_config
from stream_trainer.service.config_text import read_config_text
from stream_trainer.service.wiring import assemble
from stream_trainer.streams.files import FileSource
from stream_trainer.streams.logged_dead_letters import LoggedDeadLetters

ROOT = Path(__file__).parents[2]
NORMS = ("none", "layer", "batch_renorm", "adaptive_batch_renorm")
OPTIMIZERS: dict[str, Any] = {  # part of a model's name -> as in a configuration
    "": "stream_adamw",
    "_no_mean": {"stream_adamw": {"beta1": 0.0}},
    **{f"_adam_{rate}": {"adam": {"lr": float(rate)}} for rate in ("5e-4", "1e-3", "2e-3")},
}


def models(seed: int) -> dict[str, Any]:
    linear = {"estimator": "river.linear_model.LogisticRegression", "inputs": "standardised", "categories": "one_hot"}
    network = {"net": "mlp", "hidden": [64, 32], "seed": seed}
    return {
        **{
            f"mlp_{norm}{name}": {"torch": {**network, "norm": norm, "optimizer": optimizer}}
            for name, optimizer in OPTIMIZERS.items()
            for norm in NORMS
        },
        "river_tree": {"river": {"estimator": "river.tree.HoeffdingAdaptiveTreeClassifier"}},
        "river_logistic": {"river": linear},
    }


def streams(data: Path, scratch: Path) -> dict[str, tuple[dict[str, Any], Path]]:
    """Name -> (schema, file)."""
    flights = scratch / "flights.jsonl"
    with flights.open("wb") as file:
        file.writelines(value + b"\n" for _, value in produce())
    schemas = {name: read_config_text(ROOT / "configs" / f"{name}.yaml")["schema"] for name in ("elec2", "river")}
    flights_schema = read_config_text(ROOT / "configs" / "flights.yaml")["schema"]
    return {
        "elec2": (schemas["elec2"], data / "elec2.csv.gz"),
        "noaa_weather": (schemas["river"], data / "noaa_weather.csv.gz"),
        "flights": (flights_schema, flights),
    }


def run(schema: dict[str, Any], path: Path, batch: int, chosen: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Row -> cumulative scores; models first, then baselines."""
    config = check_config(
        {
            "name": "bench",
            "source": {"file": {"path": str(path)}},
            "schema": schema,
            "batch": {"records_max": batch},
            "models": chosen,
            "drift": {"error": "none", "features": "none"},
        },
        "bench",
    )
    with assemble(config, replay=FileSource(str(path)), dead_letters=LoggedDeadLetters()) as service:
        service.run()
    prequential = service.trainer.prequential
    return {name: dict(w.cumulative) for name, w in {**prequential.scores(), **prequential.baselines()}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the networks")
    parser.add_argument("--streams", nargs="+", default=["elec2", "noaa_weather", "flights"])
    usual = [name for name in models(0) if "_adam_" not in name]
    parser.add_argument("--models", nargs="+", default=usual, choices=list(models(0)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"# Prequential scores on real streams, {date.today()}\n")
    print(
        f"One pass, natural order, batches of {options.batch}, every default of the configuration (stream_adamw; "
        f"no_mean: beta1: 0), seed {options.seed}; River's models with its defaults. {platform.machine()}, torch "
        f"{torch.__version__}.\n"
    )
    print("| stream | model | accuracy | log-loss | AUC | kappa-temporal |\n|---|---|---|---|---|---|")
    chosen = {name: model for name, model in models(options.seed).items() if name in options.models}
    with tempfile.TemporaryDirectory() as scratch:
        for stream, (schema, path) in streams(options.data, Path(scratch)).items():
            if stream not in options.streams:
                continue
            for name, scores in run(schema, path, options.batch, chosen).items():
                cells = [scores.get(score) for score in ("accuracy", "log_loss", "auc", "kappa_temporal")]
                shown = " | ".join("-" if value is None else f"{value:.4f}" for value in cells)
                print(f"| {stream} | {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
