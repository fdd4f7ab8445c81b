"""Find the nearest neighbours of a point with the knn container, as a program on the MECAnywhere SDK does it."""

import asyncio
import json
import math
import os
from argparse import ArgumentParser

from meca_executor import meca_api

parser = ArgumentParser(description=__doc__)
parser.add_argument("--endpoint", help="URL of a gateway or desktop app; default: $MECA_ENDPOINT, else port 3001 here")
parser.add_argument("--image", default="knn:latest", help="container to offload to (default: %(default)s)")
parser.add_argument("--tasks", type=int, default=2, help="parts to split the data set into (default: %(default)s)")
args = parser.parse_args()
if args.endpoint:
    os.environ["MECA_ENDPOINT"] = args.endpoint

dataset, point, k = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], [2, 3], 2
tasks = max(1, min(args.tasks, len(dataset)))
starts = [len(dataset) * task // tasks for task in range(tasks + 1)]
found = {}


def callback(task_id, status, response, err, corr_id):
    if status == 1:
        found[int(task_id)] = json.loads(response)
    else:
        print(f"task {task_id} failed: {err}")


async def main():
    await meca_api.initiate_connection()
    for task in range(tasks):
        part = dataset[starts[task] : starts[task + 1]]
        data = json.dumps({"dataset": part, "point": point, "k": min(k, len(part)), "num_processes": 1})
        await meca_api.offload_task(str(task), args.image, data, callback, resource={"cpu": 1, "memory": 256})
    await meca_api.join(task_timeout=60, join_timeout=120)
    await meca_api.disconnect()


asyncio.run(main())
if len(found) < tasks:
    raise SystemExit(f"only {len(found)} of {tasks} parts were searched")
# Each task counts its rows from 0: add where its part starts. The nearest of all are among the nearest of each.
rows = [starts[task] + row for task, part in found.items() for row in part]
nearest = sorted(rows, key=lambda row: (math.dist(dataset[row], point), row))[:k]
print("indices", nearest)
print("points", [dataset[row] for row in nearest])
