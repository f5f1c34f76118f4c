"""Holdfast's own listings on the CLI socket: what is counted of each path, as JSON and as metrics."""

from __future__ import annotations

import asyncio
import json

from holdfast.path.control.rows import PathRow, Snapshot
from holdfast.path.latency import Statistics
from tests.unit.path_control_lab import FakeOperations, laboratory


def test_counts_of_paths() -> None:
    async def play() -> None:
        counted = Statistics(checks=7, failures=1, flaps=2, last_latency_s=0.25)
        counted.latency.add(0.25)
        rows = [PathRow(f'sd"{number}', f"8:{number}", statistics=counted) for number in range(250)]
        operations = FakeOperations(Snapshot((*rows, PathRow("sdx", "9:0"))))
        async with laboratory(operations) as lab:
            found = json.loads(await lab.ask("show paths json"))["paths"]
            assert len(found) == 251
            first = found[0]
            assert (first["path"], first["checks"], first["failed_checks"], first["flaps"]) == ('sd"0', 7, 1, 2)
            assert first["latency"]["count"] == 1
            assert "checks" not in found[-1]
            lines = (await lab.ask("show metrics")).splitlines()
            assert len(lines) == 251
            # Neither is in the help, which is the original's; users may ask for both.
            help_text = await lab.ask("nonsense")
            assert "metrics" not in help_text
            assert "show paths json" not in help_text
            lab.uids.extend([1000, 1000])
            assert (await lab.ask("show metrics")).startswith("holdfast_path_")
            operations.state = Snapshot()
            assert json.loads(await lab.ask("show paths json")) == {"paths": []}

    asyncio.run(play())
