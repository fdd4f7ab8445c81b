"""Offload two greetings to the sampleserver container, as a program on the MECAnywhere SDK does it."""

import asyncio
import json
import os
from argparse import ArgumentParser

from meca_executor import meca_api

parser = ArgumentParser(description=__doc__)
parser.add_argument("--endpoint", help="URL of a gateway or desktop app; default: $MECA_ENDPOINT, else port 3001 here")
parser.add_argument("--image", default="sampleserver:latest", help="container to offload to (default: %(default)s)")
args = parser.parse_args()
if args.endpoint:
    os.environ["MECA_ENDPOINT"] = args.endpoint


def callback(task_id, status, response, err, corr_id):
    if status == 1:
        print(f"task {task_id}: {json.loads(response)['message']}")
    else:
        print(f"task {task_id} failed: {err}")


async def main():
    await meca_api.initiate_connection()
    for number in range(2):
        data = json.dumps({"name": f"meca dev {number}"})
        await meca_api.offload_task(str(number), args.image, data, callback, resource={"cpu": 1, "memory": 256})
        await meca_api.join(task_timeout=60, join_timeout=60)  # one after the other; knn_api.py has many on their way
    await meca_api.disconnect()


asyncio.run(main())
