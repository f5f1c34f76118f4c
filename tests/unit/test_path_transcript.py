"""One story, told by the log and by what the kernel was sent: two paths fail, queueing ends, they come back."""

from __future__ import annotations

from holdfast.path.records import MapSettings
from holdfast.path.schedule import Intervals
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.path_lab import Lab

STORY = """\
the paths are found up
0.001   log sda - tur checker reports path is up
0.001   dm  reinstate_path 8:0
0.001   log 8:0: reinstated
0.001   log remaining active paths: 1
0.001   log sdb - tur checker reports path is up
0.001   dm  reinstate_path 8:16
0.001   log 8:16: reinstated
0.001   log remaining active paths: 2
sda fails
12.001  log sda - tur checker reports path is down
12.001  log checker failed path 8:0
12.001  dm  fail_path 8:0
12.001  log remaining active paths: 1
sdb fails too
19.001  log sdb - tur checker reports path is down
19.001  log checker failed path 8:16
19.001  dm  fail_path 8:16
19.001  log remaining active paths: 0
19.001  log Entering recovery mode: max_retries=4
27.001  dm  fail_if_no_path
27.001  log Disable queueing
sdb comes back
40.001  log sdb - tur checker reports path is up
40.001  dm  reinstate_path 8:16
40.001  log 8:16: reinstated
40.001  log remaining active paths: 1
40.001  dm  queue_if_no_path
40.001  log queue_if_no_path enabled
40.001  log Recovered to normal mode
"""


def test_story() -> None:
    told: list[str] = []

    async def scene() -> None:
        lab = Lab(MapSettings(intervals=Intervals(2, 8), no_path_retry=4, log_checker_err_once=True))

        def write(line: str) -> None:
            at, level, text = line.split(" ", 2)
            text = text.removeprefix("mpatha: ").removesuffix(" in map mpatha")
            if int(level) < 3:
                told.append(f"{at:<7} log {text}")

        class Kernel(type(lab.kernel)):  # type: ignore[misc]
            async def message(self, name: str, message: str) -> None:
                told.append(f"{lab.loop.time():<7g} dm  {message}")
                await super().message(name, message)

        lab.kernel.__class__ = Kernel
        lab.log = type("Told", (list,), {"append": lambda self, line: write(line)})()
        async with lab:
            told.append("the paths are found up")
            await lab.pass_time(10)
            told.append("sda fails")
            lab.kill("sda")
            await lab.pass_time(9)
            told.append("sdb fails too")
            lab.kill("sdb")
            await lab.pass_time(19.5)
            told.append("sdb comes back")
            lab.mend("sdb")
            await lab.pass_time(2)

    run_virtual(scene())
    assert "\n".join(told) + "\n" == STORY
