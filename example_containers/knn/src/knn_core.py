"""The search: rows are split into parts, each part is searched by a process, and their findings are merged.

Run as a script this file is such a process: a part as JSON on the standard input, its findings on the output.

Plain subprocesses, not `multiprocessing`: to fork a server that has threads is not safe, and the waiting workers
of a pool would outlive a server that is killed. A subprocess ends by itself when its pipes do.
"""

from __future__ import annotations

import heapq
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

MAX_PROCESSES = 32  #: for one request; more are not asked for, as the answer does not depend on it

Found = tuple[float, int]  #: distance and row index, so that equal distances are ordered by index


class Query(NamedTuple):
    """One valid input."""

    dataset: list[list[float]]
    point: list[float]
    k: int
    num_processes: int


def check(data: object) -> Query:
    """Return the query in an input.

    Raises:
        ValueError: Something is missing or wrong; the text says what.
    """
    if not isinstance(data, dict):
        raise ValueError("expected a JSON object with dataset, point, k and num_processes")
    if missing := [name for name in ("dataset", "point", "k") if name not in data]:
        raise ValueError(f"{', '.join(missing)} missing")
    dataset, point = data["dataset"], data["point"]
    if not _is_row(point) or not point:
        raise ValueError("point must be a list of finite numbers")
    if not isinstance(dataset, list):
        raise ValueError("dataset must be a list of rows")
    for index, row in enumerate(dataset):
        if not _is_row(row):
            raise ValueError(f"row {index} of dataset must be a list of finite numbers")
        if len(row) != len(point):
            raise ValueError(f"row {index} of dataset has {len(row)} numbers and point has {len(point)}")
    k = _count(data, "k")
    if k > len(dataset):
        raise ValueError(f"k is {k} and dataset has only {len(dataset)} rows")
    return Query(dataset, point, k, _count(data, "num_processes", 1))


def _is_row(value: object) -> bool:
    if not isinstance(value, list):
        return False
    try:
        return all(type(number) in (int, float) and math.isfinite(number) for number in value)
    except OverflowError:  # an integer beyond any float
        return False


def _count(data: dict[str, object], name: str, default: int | None = None) -> int:
    value = data.get(name, default)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1")
    return value


def search(rows: list[list[float]], point: list[float], k: int, offset: int) -> list[Found]:
    """Return the k nearest of these rows (all, if fewer); row 0 has the index `offset`."""
    return heapq.nsmallest(k, ((math.dist(row, point), offset + at) for at, row in enumerate(rows)))


def nearest_rows(query: Query) -> list[int]:
    """Return the indices of the k rows nearest to the point, nearest first, the lower index first where equal."""
    processes = min(query.num_processes, len(query.dataset), MAX_PROCESSES)
    if processes == 1:
        found = search(query.dataset, query.point, query.k, 0)
    else:
        cuts = [len(query.dataset) * part // processes for part in range(processes + 1)]
        with ThreadPoolExecutor(processes) as threads:  # a thread each, only to feed the process and wait for it
            parts = threads.map(lambda begin, end: _search_in_process(query, begin, end), cuts, cuts[1:])
            found = heapq.nsmallest(query.k, (pair for part in parts for pair in part))
    return [index for _, index in found]


def _search_in_process(query: Query, begin: int, end: int) -> list[Found]:
    part = json.dumps([query.dataset[begin:end], query.point, query.k, begin])
    command = [sys.executable, "-S", __file__]  # -S: no packages are needed, and the start is faster without them
    done = subprocess.run(command, input=part, stdout=subprocess.PIPE, text=True, check=True)
    return [(distance, index) for distance, index in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(search(*json.load(sys.stdin))))
