"""Find the nearest neighbours of a point with the knn container, the data set split over several tasks."""

import math
from argparse import ArgumentParser

from meca_executor import Container, MecaExecutor

parser = ArgumentParser(description=__doc__)
parser.add_argument("--endpoint", help="URL of a gateway, or 'desktop'; default: $MECA_ENDPOINT, else one of its own")
parser.add_argument("--image", default="knn:latest", help="container to offload to (default: %(default)s)")
parser.add_argument("--tasks", type=int, default=2, help="parts to split the data set into (default: %(default)s)")
args = parser.parse_args()

dataset, point, k = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], [2, 3], 2
tasks = max(1, min(args.tasks, len(dataset)))
starts = [len(dataset) * task // tasks for task in range(tasks)]
parts = [dataset[start:end] for start, end in zip(starts, [*starts[1:], len(dataset)], strict=True)]
inputs = [{"dataset": part, "point": point, "k": min(k, len(part)), "num_processes": 1} for part in parts]

knn = Container(args.image, resource={"cpu": 1, "memory": 256})
with MecaExecutor(args.endpoint) as ex:
    # Each task counts its rows from 0: add where its part starts. The nearest of all are among the nearest of each.
    found = [start + row for start, rows in zip(starts, ex.map(knn, inputs), strict=True) for row in rows]
nearest = sorted(found, key=lambda row: (math.dist(dataset[row], point), row))[:k]
print("indices", nearest)
print("points", [dataset[row] for row in nearest])
