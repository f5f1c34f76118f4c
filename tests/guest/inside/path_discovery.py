"""What discovery finds in a guest, as lines of JSON: the disks; then what happens to the first one of a WWID."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys

from holdfast.path.conf_files import load
from holdfast.path.discovery import Discovery, KernelSettings, PathInfo, Uevent, Wish

LIMIT_S = 60.0


def say(**facts: object) -> None:
    print(json.dumps(facts, default=str), flush=True)


def set_attribute(info: PathInfo, name: str, value: str) -> None:
    with open(f"{info.device_path}/{name}", "w") as file:
        file.write(f"{value}\n")


async def main(wwid: str) -> None:
    found = Discovery(load(native_nvme=False))
    found.start()
    infos = await found.scan()
    say(paths=[dataclasses.asdict(info) | {"bus": info.bus.value} for info in infos])
    say(excluded=dict(found.excluded))
    info = next(one for one in infos if one.wwid == wwid)
    dev = info.dev
    events = found.events()

    async def wait_for(action: str) -> Uevent:
        async for event in events:
            if (event.dev, event.action) == (dev, action):
                return event
        raise AssertionError("events ended")

    say(retriggered=await found.retrigger(dev))
    event = await asyncio.wait_for(wait_for("change"), LIMIT_S)
    say(event=[event.action, event.dev_t, event.properties.get("ID_SERIAL")])
    states = []
    for state in ("offline", "running"):
        set_attribute(info, "state", state)
        states.append(found.sysfs_state(info).name)
    settings = KernelSettings(fast_io_fail=5, eh_deadline=30, max_retries=3, max_sectors_kb=256)
    lines = [line.text for line in await found.set_kernel_timeouts([Wish(info, settings)])]
    set_attribute(info, "delete", "1")
    await asyncio.wait_for(wait_for("remove"), LIMIT_S)
    states.append(found.sysfs_state(info).name)
    say(states=states, lines=lines, gone=await found.read(dev) is None)
    found.close()


asyncio.run(main(sys.argv[1]))
