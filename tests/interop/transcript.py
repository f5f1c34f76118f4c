"""Play the same calls against a daemon and write down the answers, free of everything that differs by nature."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.interop.hosts import CALL_LIMIT_S, Host, new_file, wait_until

MIB = 1 << 20

SETTLING_LOOKS: Final = 50
OWN_NUMBERS: Final = (
    *("fd", "ci", "monotime"),
    *("acquire_last_attempt", "acquire_last_success", "renewal_last_attempt", "renewal_last_success"),
    *("last_check", "last_live", "last_req", "timestamp", "read_ms", "write_ms", "kill_last", "used_retries"),
    *("res_id", "token_id"),
)
"""Keys of the strings of STATUS, HOST_STATUS and RENEWAL whose values are descriptors, slots, times, own numbers.

A zero stays a zero: it says that something has not happened.
"""


@dataclass
class Transcript:
    """The calls made against one host, with their answers."""

    host: Host
    directory: Path
    entries: list[str] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)

    def beside(self, host: Host) -> Transcript:
        """The same record, for calls against another daemon."""
        return replace(self, host=host)

    def cli(self, text: str) -> str:
        """Run `sanlock TEXT` and record status and output; {d} is the directory. Returns the raw output."""
        return self.run(*text.split())

    def run(self, *words: str) -> str:
        """`cli` with words that may contain blanks."""
        acquires = words[:2] == ("client", "command")
        before = self._held() if acquires else set()
        answer = self.host.cli(*[word.replace("{d}", str(self.directory)) for word in words])
        self.record(f"$ sanlock {' '.join(words)}\n{answer.output}[{answer.status}]")
        if acquires:
            # What the command held is released behind its back.
            wait_until(lambda: self._held() <= before, f"{self.host.name}: release after {words}")
        return answer.output

    def _held(self) -> set[str]:
        """Leases that are held or being released."""
        lines = self.host.cli("client", "status").output.splitlines()
        return {line for line in lines if line.startswith("r ") and not line.endswith("ORPHAN")}

    def record(self, text: str) -> None:
        """Add one entry, normalised. Its first line says what was asked."""
        self.entries.append(self._normalise(text))

    def details_of_daemon(self) -> None:
        """What `status -D` says of the daemon itself."""
        self._details("daemon")

    def details(self) -> None:
        """What `status -D` says of clients, lockspaces and resources."""
        self._details("rest")

    def _details(self, part: str) -> None:
        answer = self.host.cli("client", "status", "-D")
        for _ in range(SETTLING_LOOKS):
            # The original resumes a connection some time after it has sent the reply.
            if "suspend=1" not in answer.output:
                break
            answer = self.host.cli("client", "status", "-D")
        daemon, _, rest = answer.output.partition("\np ")
        shown = daemon if part == "daemon" else f"p {rest}"
        self.record(f"$ sanlock client status -D ({part})\n{shown}\n[{answer.status}]")

    def bytes_of(self, name: str, offset: int = 0, size: int = MIB) -> None:
        """Record what lies in a file, as a checksum."""
        data = (self.directory / name).read_bytes()[offset : offset + size]
        self.record(f"= {name} {offset} {size}\n{len(data)} {hashlib.sha256(data).hexdigest()}")

    def name(self, number: int, name: str) -> int:
        """From now on a pid is shown as `<name>`."""
        self._names[str(number)] = f"<{name}>"
        return number

    def hold(self, name: str, *resources: str, shared: bool = False) -> int:
        """A process that holds resources; its pid, shown as `<name>`."""
        wanted = [resource.replace("{d}", str(self.directory)) for resource in resources]
        return self.name(self.host.hold(*wanted, shared=shared).pid, name)

    def kill(self, pid: int) -> None:
        """Kill the process `pid` that `hold` made."""
        for process in self.host.holders:
            if process.pid == pid:
                process.kill()
                process.wait()

    def stop(self, pid: int) -> None:
        """Kill the process `pid` that `hold` made, and wait until it holds nothing but orphans."""
        self.kill(pid)

        def forgotten() -> bool:
            lines = self.host.cli("client", "status").output.splitlines()
            busy = [line for line in lines if line.endswith(" REM") and line.startswith("r ")]
            return not busy and not [line for line in lines if f"p {pid}" in line and not line.endswith("ORPHAN")]

        wait_until(forgotten, f"{self.host.name}: everything of {pid} is released")

    def end_of(self, pid: int) -> None:
        """Wait until the process `pid` that `hold` made has ended, and record how."""
        for process in self.host.holders:
            if process.pid == pid:
                self.record(f"= end of {pid}\n{process.wait(CALL_LIMIT_S)}")

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
        if re.search(r"timestamp [1-9]", text):
            text = re.sub(r"checksum (0x)?[0-9a-f]+", "checksum C", text)
        text = re.sub(r"timestamp [1-9]\d*", "timestamp T", text)
        text = re.sub(r"'timestamp': [1-9]\d*", "'timestamp': T", text)
        text = re.sub(rf"\b({'|'.join(OWN_NUMBERS)})=-?[1-9]\d*", r"\1=N", text)
        text = re.sub(r"\b(helper_pid|helper_kill_fd|helper_last_status|reused)=-?\d+", r"\1=N", text)
        text = re.sub(r"register done \d+|acquire fd \d+", lambda match: match[0].rsplit(" ", 1)[0] + " FD", text)
        for number, name in self._names.items():
            # A process may happen to have the number 512: sizes and the like are no pids.
            text = re.sub(rf"(?<!size=)(?<!timeout=)(?<!hosts=)\b{number}\b", name, text)
        text = re.sub(r" p \d+ ORPHAN", " p PID ORPHAN", text)
        # STATUS lists clients by slot; a slot is free for reuse whenever the daemon has noticed the last close.
        return re.sub(r"(?:^p .*\n(?:    .*\n)*)+", _in_any_order, text, flags=re.M)


def _in_any_order(block: re.Match[str]) -> str:
    return "".join(sorted(re.findall(r"p .*\n(?:    .*\n)*", block[0])))
