# ruff: noqa: T201 - a program
"""Two greetings from the sampleserver container, one after the other."""

import asyncio
import json

from tests.peers import old_sdk as meca_api


def callback(task_id: str, status: int, response: str, err: str, corr_id: str) -> None:
    if status == 1:
        print("reply of task", task_id, json.loads(response)["message"])
    else:
        print("task", task_id, "failed:", err)


async def main() -> None:
    try:
        await meca_api.initiate_connection()
    except Exception as error:
        print("no connection:", error)
        return
    for number in range(2):
        data = json.dumps({"name": f"meca dev {number}"})
        await meca_api.offload_task(str(number), "sampleserver:latest", data, callback, {"cpu": 1, "memory": 256})
        await meca_api.join(20, 40)
    await meca_api.disconnect()


asyncio.run(main())
