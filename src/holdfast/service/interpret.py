"""From assignments to settings: each kind of value, resets, defaults, and what refuses a unit (spec 1.2, 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from holdfast.conf_text import Assignment, Complaint, Parsed
from holdfast.service import capability, commands, environment, keys, words
from holdfast.service.calendar import CalendarError
from holdfast.service.calendar import parse as parse_calendar
from holdfast.service.exit_status import StatusSet, parse_signal, parse_statuses
from holdfast.service.keys import Key, Kind
from holdfast.service.names import UnitName, UnitNameError
from holdfast.service.refusals import complete, refusal
from holdfast.service.settings import (
    Condition,
    Defaults,
    ExecSettings,
    InstallSettings,
    KillSettings,
    Listen,
    PathSettings,
    SocketSettings,
    TimerSettings,
    Trigger,
    UnitFile,
    UnitSettings,
    build,
)
from holdfast.service.specifiers import IN_INSTALL, SpecifierError, Specifiers
from holdfast.service.values import (
    SoftAboveHard,
    never_if_zero,
    parse_address,
    parse_amount,
    parse_boolean,
    parse_integer,
    parse_limit,
    parse_mode,
    parse_path,
    parse_size,
)
from holdfast.timespan import TimeSpanError, parse_timespan

MAX_ITEMS: Final = 65536
"""Of one list; what comes after is refused."""

Values = dict[str, dict[str, Any]]
"""By section and field."""


def interpret(
    name: UnitName,
    files: Sequence[Parsed],
    specifiers: Specifiers,
    defaults: Defaults = Defaults(),  # noqa: B008 - frozen
) -> UnitFile:
    """A unit's settings from its file and drop-ins, in the order in which they apply."""
    reader = _Reader(name, specifiers)
    known = keys.SECTIONS.get(name.type, ("Unit", "Install"))
    for parsed in files:
        known_lines = [(line, section in known) for section, line in parsed.sections]
        before = reader.complaints
        reader.complaints = [one for one in parsed.complaints if _counts(one, known_lines)]
        for section, line in parsed.sections:
            if section not in known and not section.startswith("X-") and name.type in keys.SECTIONS:
                reader.complaints.append(Complaint(parsed.path, line, f"Unknown section '{section}'. Ignoring."))
        for one in parsed.assignments:
            if one.section in known:
                reader.assign(one)
        reader.complaints = before + sorted(reader.complaints, key=lambda complaint: complaint.line)
    reader.report_skipped()
    own = reader.values.get(known[-1], {})
    unit_values = reader.values.get("Unit", {})
    unit_values.setdefault("start_limit_interval_sec", defaults.start_limit_interval_sec)
    unit_values.setdefault("start_limit_burst", defaults.start_limit_burst)
    service, remarks = complete(name, own, unit_values, defaults) if name.type == "service" else (None, [])
    reader.complaints += [Complaint(str(name), 0, remark) for remark in remarks]
    if name.type == "socket" and own.get("accept"):
        own.setdefault("trigger_limit_burst", 200)
    file = UnitFile(
        name,
        build(UnitSettings, unit_values | {"dependencies": reader.dependencies}),
        build(InstallSettings, reader.values.get("Install", {})),
        service,
        build(SocketSettings, own) if name.type == "socket" else None,
        build(TimerSettings, own) if name.type == "timer" else None,
        build(PathSettings, own) if name.type == "path" else None,
        build(ExecSettings, own),
        build(KillSettings, own),
        tuple(reader.complaints),
    )
    reason = FATAL_ERROR if reader.fatal else refusal(file)
    if not reason:
        return file
    complaints = (*file.complaints, Complaint(str(name), 0, reason))
    return UnitFile(
        name, file.unit, file.install, file.service, file.socket, file.timer, file.path, file.exec, file.kill,
        complaints, reason,
    )  # fmt: skip


def _counts(complaint: Complaint, sections: list[tuple[int, bool]]) -> bool:
    """Lines of sections that nobody knows are skipped without a word."""
    of = [known for line, known in sections if line <= complaint.line]
    return of[-1] if of else True


FATAL_ERROR: Final = "Unit configuration has fatal error, unit will not be started."


class _Ignore(Exception):
    """The assignment has no effect; the text is logged as it is. `fatal`: the unit must not be started."""

    def __init__(self, text: str, fatal: bool = False) -> None:
        super().__init__(text)
        self.fatal = fatal


class _Reader:
    def __init__(self, name: UnitName, specifiers: Specifiers) -> None:
        self._name = name
        self._expand = specifiers
        self._expand_install = Specifiers(specifiers.name, specifiers.host, specifiers.fragment, IN_INSTALL)
        self.values: Values = {}
        self.dependencies: dict[str, tuple[str, ...]] = {}
        self.complaints: list[Complaint] = []
        self.fatal = False
        self._skipped: dict[bool, dict[str, Assignment]] = {False: {}, True: {}}

    def assign(self, one: Assignment) -> None:
        """One assignment takes effect, or is complained about."""
        key = keys.lookup(one.section, one.key)
        try:
            if (one.section, one.key) == ("Unit", "OnFailureIsolate"):
                self._set("Unit", "on_failure_job_mode", "isolate" if _boolean(one.value) else "replace")
            elif key is None:
                if not one.key.startswith("X-"):
                    raise _Ignore(f"Unknown key '{one.key}' in section [{one.section}], ignoring.")
            elif key.level == 3:
                self._skip(key, one)
            elif key.kind is not Kind.NONE:
                self._apply(key, one)
        except _Ignore as reason:
            self.fatal = self.fatal or reason.fatal
            self._complain(one, str(reason))
        except SpecifierError as error:
            fatal = one.key in keys.FATAL
            self.fatal = self.fatal or fatal
            ignoring = "" if fatal else ", ignoring"
            self._complain(one, f"Failed to resolve unit specifiers in {one.value}{ignoring}: {error}")

    def _complain(self, one: Assignment, text: str) -> None:
        self.complaints.append(Complaint(one.path, one.line, text))

    def _skip(self, key: Key, one: Assignment) -> None:
        if key.kind is Kind.BOOLEAN and not _boolean(one.value):
            return
        self._skipped[key.loud].setdefault(one.key, one)

    def report_skipped(self) -> None:
        """One line for all keys without effect, one for those that a program would miss."""
        for loud, text in (
            (True, "not supported, the program runs WITHOUT it"),
            (False, "not supported, ignoring"),
        ):
            found = self._skipped[loud]
            if found:
                first = next(iter(found.values()))
                places = ", ".join(f"{key}= (line {one.line})" for key, one in found.items())
                self.complaints.append(Complaint(first.path, first.line, f"{text}: {places}"))

    def _set(self, section: str, field: str, value: Any) -> None:
        self.values.setdefault(section, {})[field] = value

    def _apply(self, key: Key, one: Assignment) -> None:
        if key.kind is Kind.UNITS and key.section == "Unit":
            self.dependencies[key.name] = self._units(one, self.dependencies.get(key.name, ()))
            return
        field = key.field or keys.field_name(key.name)
        old = self.values.get(key.section, {}).get(field, ())
        if key.kind in _LISTS:
            # Of capabilities the empty list is a value: none at all. Packages mean it.
            empty = ("",) if key.name == "CapabilityBoundingSet" else ()
            new = _LISTS[key.kind](self, key, one, old) if one.value else empty
            if len(new) > MAX_ITEMS:
                raise _Ignore(f"more than {MAX_ITEMS} items in {one.key}=, ignoring.")
            self._set(key.section, field, new)
        elif key.kind is Kind.UNITS:
            self._set(key.section, field, self._units(one, old))
        elif key.kind is Kind.STATUSES:
            self._set(key.section, field, self._statuses(one, old or StatusSet()))
        elif key.kind is Kind.CAPABILITIES:
            self._set(key.section, field, self._capabilities(key, one, key.default if old == () else old))
        elif key.name == "TimeoutAbortSec" and not one.value:
            self._set(key.section, field, None)
        else:
            value = self._scalar(key, one.value)
            if key.section == "Service" and key.name == "TimeoutSec":
                self._set(key.section, "timeout_start_sec", value)
                self._set(key.section, "timeout_stop_sec", value)
            else:
                self._set(key.section, field, value)

    def _scalar(self, key: Key, text: str) -> Any:
        if key.name in ("WorkingDirectory", "RootDirectory") and text:
            return self._directory(key, text)
        if (key.section, key.name) in _OTHER_UNITS and text:
            return self._other_unit(text)
        if key.kind is Kind.TEXT:
            return (self._expand_install if key.section == "Install" else self._expand)(text) if text else None
        if not text and (key.kind in _EMPTY_RESETS or key.name == "KillMode"):
            return None
        if key.kind is Kind.CHOICE:
            if text in key.choices:
                return text
            raise _Ignore(f"Failed to parse {key.word or key.name + '='}, ignoring: {text}")
        if key.kind is Kind.LIMIT:
            return _limit(key, text)
        if key.kind is Kind.AMOUNT:
            return _amount(key, text)
        if key.kind is Kind.INTEGER:
            return _integer(key, text)
        return _parsed(lambda: _SCALARS[key.kind](text), key, text)

    def _other_unit(self, text: str) -> str:
        name = self._expand(text)
        try:
            return str(UnitName.parse(name))
        except UnitNameError:
            raise _Ignore(f"Unit type not valid, ignoring: {name}") from None

    def _directory(self, key: Key, text: str) -> str:
        optional = key.name == "WorkingDirectory" and text.startswith("-")
        path = self._expand(text[optional:])
        if path == "~" and key.name == "WorkingDirectory":
            return text
        try:
            return "-" * optional + parse_path(path)
        except ValueError:
            ignoring = ", ignoring" if optional else ""
            raise _Ignore(f"{key.name}= path is not absolute{ignoring}: {path}", not optional) from None

    def _units(self, one: Assignment, old: tuple[str, ...]) -> tuple[str, ...]:
        found = list(old)
        for word in self._split(one):
            text = self._expand(word)
            try:
                found.append(str(UnitName.parse(text)))
            except UnitNameError:
                self._complain(one, f"Failed to add dependency on {text}, ignoring: Invalid argument")
        return tuple(dict.fromkeys(found))[:MAX_ITEMS]

    def _split(self, one: Assignment) -> list[str]:
        try:
            return [words.join_bytes(word) for word in words.texts(one.value)]
        except words.WordError as error:
            raise _Ignore(f"Invalid syntax, ignoring: {one.value} ({error})") from None

    def _statuses(self, one: Assignment, old: StatusSet) -> StatusSet:
        if not one.value:
            return StatusSet()
        try:
            found, warnings = parse_statuses(one.value)
        except words.WordError:
            raise _Ignore(f"Failed to parse exit status specifier, ignoring: {one.value}") from None
        for warning in warnings:
            self._complain(one, warning)
        return old | found

    def _capabilities(self, key: Key, one: Assignment, old: int) -> int:
        if not one.value:
            return 0
        mask, unknown = capability.merge(old, key.default, one.value)
        for word in unknown:
            self._complain(one, f"Failed to parse capability in bounding/ambient set, ignoring: {word}")
        return mask

    def words(self, key: Key, one: Assignment, old: tuple[str, ...]) -> tuple[str, ...]:
        """A list of words, specifiers expanded."""
        expand = self._expand_install if key.section == "Install" else self._expand
        found = [expand(word) for word in self._split(one)]
        if key.name.endswith("Directory"):
            # Each is created below /run, /var/lib ..., never outside.
            for path in found:
                if path.startswith("/"):
                    self._complain(one, f"{key.name}= path is absolute, ignoring: {path}")
                elif ".." in path.split("/"):
                    self._complain(one, f"{key.name}= path is not normalized, ignoring: {path}")
            found = [path for path in found if not path.startswith("/") and ".." not in path.split("/")]
        return (*old, *found)

    def texts(self, key: Key, one: Assignment, old: tuple[str, ...]) -> tuple[str, ...]:
        """A list to which each assignment adds one text."""
        text = self._expand(one.value)
        if key.name == "EnvironmentFile" and not text.removeprefix("-").startswith("/"):
            raise _Ignore(f"EnvironmentFile= path is not absolute, ignoring: {text}")
        return (*old, text)

    def paths(self, key: Key, one: Assignment, old: tuple[str, ...]) -> tuple[str, ...]:
        """A list of paths."""
        found = list(old)
        for word in self._split(one):
            path = self._expand(word)
            try:
                found.append(parse_path(path))
            except ValueError:
                raise _Ignore(f"{key.name}= path is not absolute, ignoring: {path}") from None
        return tuple(found)

    def commands(self, key: Key, one: Assignment, old: tuple[Any, ...]) -> tuple[Any, ...]:
        """A list of command lines."""
        try:
            found, warnings = commands.parse(one.value, self._expand)
        except commands.CommandError as error:
            raise _Ignore(str(error), not error.ignored) from None
        for warning in warnings:
            self._complain(one, warning)
        return (*old, *found)

    def environment(self, key: Key, one: Assignment, old: tuple[Any, ...]) -> tuple[Any, ...]:
        """Pairs; a later one of the same name replaces the earlier one, in its place."""
        try:
            pairs, warnings = environment.parse_assignments(one.value, self._expand)
        except words.WordError:
            raise _Ignore(f"Invalid syntax, ignoring: {one.value}") from None
        for warning in warnings:
            self._complain(one, warning)
        return tuple((dict(old) | dict(pairs)).items())

    def condition(self, key: Key, one: Assignment, old: tuple[Any, ...]) -> tuple[Any, ...]:
        """One condition; `|` comes before `!`."""
        text = one.value
        trigger = text.startswith("|")
        text = text[trigger:].lstrip()
        negate = text.startswith("!")
        argument = self._expand(text[negate:].lstrip())
        kind = key.name.removeprefix("Condition").removeprefix("Assert")
        if ("Path" in kind or kind in _PATH_CONDITIONS) and not argument.startswith("/"):
            raise _Ignore(f"{key.name}= path is not absolute, ignoring: {argument}")
        return (*old, Condition(kind, argument, trigger, negate))

    def listen(self, key: Key, one: Assignment, old: tuple[Any, ...]) -> tuple[Any, ...]:
        """One address."""
        kind, text = key.name.removeprefix("Listen"), self._expand(one.value)
        if kind in ("Stream", "Datagram", "SequentialPacket"):
            try:
                text = parse_address(text)
            except ValueError:
                raise _Ignore(f"Failed to parse address value in '{text}', ignoring: Invalid argument") from None
        elif kind in ("FIFO", "Special"):
            text = _parsed(lambda: parse_path(text), key, text)
        return (*old, Listen(kind, text))

    def trigger(self, key: Key, one: Assignment, old: tuple[Any, ...]) -> tuple[Any, ...]:
        """One time, or one path."""
        text = self._expand(one.value)
        if key.section == "Path":
            return (*old, Trigger(key.name, _parsed(lambda: parse_path(text), key, text)))
        if key.name == "OnCalendar":
            try:
                return (*old, Trigger(key.name, str(parse_calendar(text))))
            except CalendarError:
                raise _Ignore(f"Failed to parse calendar specification, ignoring: {text}") from None
        try:
            return (*old, Trigger(key.name, text, parse_timespan(text)))
        except TimeSpanError:
            raise _Ignore(f"Failed to parse timer value, ignoring: {text}") from None


_OTHER_UNITS: Final = frozenset({("Socket", "Service"), ("Timer", "Unit"), ("Path", "Unit")})
_PATH_CONDITIONS: Final = frozenset(("DirectoryNotEmpty", "FileNotEmpty", "FileIsExecutable", "NeedsUpdate"))

_LISTS: Final[Mapping[Kind, Callable[[_Reader, Key, Assignment, tuple[Any, ...]], tuple[Any, ...]]]] = {
    Kind.WORDS: _Reader.words,
    Kind.TEXTS: _Reader.texts,
    Kind.PATHS: _Reader.paths,
    Kind.COMMANDS: _Reader.commands,
    Kind.ENVIRONMENT: _Reader.environment,
    Kind.CONDITION: _Reader.condition,
    Kind.LISTEN: _Reader.listen,
    Kind.TRIGGER: _Reader.trigger,
}

_SCALARS: Final[Mapping[Kind, Callable[[str], Any]]] = {
    Kind.BOOLEAN: parse_boolean,
    Kind.SPAN: parse_timespan,
    Kind.TIMEOUT: lambda text: never_if_zero(parse_timespan(text)),
    Kind.MODE: parse_mode,
    Kind.SIGNAL: parse_signal,
    Kind.SIZE: parse_size,
}
_EMPTY_RESETS: Final = frozenset({Kind.AMOUNT, Kind.SIZE, Kind.PATH})


def _limit(key: Key, text: str) -> Any:
    try:
        return _parsed(lambda: parse_limit(text, keys.LIMITS[key.name.removeprefix("Limit")]), key, text)
    except SoftAboveHard:
        raise _Ignore(f"Soft resource limit chosen higher than hard limit, ignoring: {text}") from None


def _amount(key: Key, text: str) -> Any:
    try:
        return parse_amount(text)
    except ValueError:
        what = "maximum tasks value" if key.name == "TasksMax" else "memory limit"
        raise _Ignore(f"Invalid {what} '{text}', ignoring: Invalid argument") from None


def _integer(key: Key, text: str) -> int:
    low, high, complaint = keys.RANGES.get(key.name, (0, 2**32 - 1, ""))
    try:
        return parse_integer(text, low, high)
    except ValueError:
        raise _Ignore(f"{complaint or 'Failed to parse ' + key.kind.value}, ignoring: {text}") from None


def _boolean(text: str) -> bool:
    try:
        return parse_boolean(text)
    except ValueError:
        raise _Ignore(f"Failed to parse boolean value, ignoring: {text}") from None


def _parsed(parse: Callable[[], Any], key: Key, text: str) -> Any:
    try:
        return parse()
    except SoftAboveHard:
        raise
    except (ValueError, TimeSpanError):
        raise _Ignore(f"Failed to parse {key.word or key.kind.value}, ignoring: {text}") from None
