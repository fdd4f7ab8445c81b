# ruff: noqa: T201 - a program
"""The nearest neighbours of a point by the knn container, the rows split over several tasks that run at once."""

import asyncio
import json
import math
import sys

from tests.peers import old_sdk as meca_api

CONTAINER = "my_knn_app:latest"
DATASET, POINT, K = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], [2, 3], 2
TASKS = int(sys.argv[1]) if len(sys.argv) > 1 else 1

found: list[int] = []
starts = [len(DATASET) * part // TASKS for part in range(TASKS + 1)]


def callback(task_id: str, status: int, response: str, err: str, corr_id: str) -> None:
    if status == 0:
        print("task", task_id, "failed:", err)
        return
    # A task counts its rows from 0: its id says where its part starts.
    found.extend(starts[int(task_id)] + row for row in json.loads(response))


async def main() -> None:
    await meca_api.initiate_connection()
    for number in range(TASKS):
        part = DATASET[starts[number] : starts[number + 1]]
        data = {"dataset": part, "point": POINT, "k": min(K, len(part)), "num_processes": 1}
        resource = {"cpu": 1, "memory": 256}
        await meca_api.offload_task(str(number), CONTAINER, json.dumps(data), callback, resource)
    await meca_api.join(30, 60)
    await meca_api.disconnect()
    nearest = sorted(found, key=lambda row: (math.dist(DATASET[row], POINT), row))[:K]
    print("indices", nearest)
    print("points", [DATASET[row] for row in nearest])


asyncio.run(main())
