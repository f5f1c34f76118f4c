"""Play the same calls against a daemon and write down the answers, free of everything that differs by nature."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.hosts import Host, new_file, wait_until

MIB = 1 << 20


@dataclass
class Transcript:
    """The calls made against one host, with their answers."""

    host: Host
    directory: Path
    entries: list[str] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)

    def cli(self, text: str) -> str:
        """Run `sanlock TEXT` and record status and output; {d} is the directory. Returns the raw output."""
        arguments = [part.replace("{d}", str(self.directory)) for part in text.split()]
        answer = self.host.cli(*arguments)
        self.record(f"$ sanlock {text}\n{answer.output}[{answer.status}]")
        return answer.output

    def record(self, text: str) -> None:
        """Add one entry, normalised."""
        self.entries.append(self._normalise(text))

    def name(self, number: int, name: str) -> int:
        """From now on a pid is shown as `<name>`."""
        self._names[str(number)] = f"<{name}>"
        return number

    def hold(self, name: str, *resources: str, shared: bool = False) -> int:
        """A process that holds resources; its pid, shown as `<name>`."""
        wanted = [resource.replace("{d}", str(self.directory)) for resource in resources]
        return self.name(self.host.hold(*wanted, shared=shared).pid, name)

    def stop(self, pid: int) -> None:
        """Kill the process `pid` that `hold` made."""
        for process in self.host.holders:
            if process.pid == pid:
                process.kill()
                process.wait()

    def wait_for_output(self, text: str, *expected: str) -> None:
        """Repeat `sanlock TEXT` until each of `expected` is in its output; then record it."""
        arguments = [part.replace("{d}", str(self.directory)) for part in text.split()]

        def answered() -> bool:
            output = self.host.cli(*arguments).output
            return all(part in output for part in expected)

        wait_until(answered, f"{self.host.name}: {expected} in the output of {text}")
        self.cli(text)

    def wait_until_gone(self, text: str, unwanted: str) -> None:
        """Repeat `sanlock TEXT` until `unwanted` is no longer in its output; then record it."""
        arguments = [part.replace("{d}", str(self.directory)) for part in text.split()]
        wait_until(
            lambda: unwanted not in self.host.cli(*arguments).output,
            f"{self.host.name}: {unwanted} goes from {text}",
        )
        self.cli(text)

    def file(self, name: str, mebibytes: int) -> None:
        """Make a file of zeros."""
        new_file(self.directory / name, mebibytes)

    def _normalise(self, text: str) -> str:
        text = text.replace(str(self.directory), "{d}").replace(self.host.name, "HOSTNAME")
        text = re.sub(r"timestamp [1-9]\d*", "timestamp T", text)
        text = re.sub(r"'timestamp': [1-9]\d*", "'timestamp': T", text)
        text = re.sub(r"register done \d+|acquire fd \d+", lambda match: match[0].rsplit(" ", 1)[0] + " FD", text)
        for number, name in self._names.items():
            text = re.sub(rf"\b{number}\b", name, text)
        # STATUS lists clients by slot; a slot is free for reuse whenever the daemon has noticed the last close.
        return re.sub(r"(?:^p .*\n)+", lambda block: "".join(sorted(block[0].splitlines(True))), text, flags=re.M)
