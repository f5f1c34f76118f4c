"""systemd's time spans: every row of the spec's table (spec watchdog 2.2)."""

from __future__ import annotations

import pytest

from holdfast.timespan import INFINITY, TimeSpanError, TimeSpanRange, format_timespan, parse_timespan

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1min 30s", 90),
        ("1.5min", 90),
        ("1 min30", 90),
        ("55s500ms", 55.5),
        ("300ms20s 5day", 432020.3),
        (".5s", 0.5),
        ("+5", 5),
        ("00005", 5),
        (" 7s ", 7),
        ("1y 12month", 2 * 31557600),
        ("1h 30", 3630),
        ("5 6", 11),
        ("5 min 5", 305),
        ("0.0000015s", 0.000001),
        ("5µs", 0.000005),
        ("5μs", 0.000005),
        ("2hr", 7200),
        ("1w", 604800),
        ("1M", 2629800),
        ("0", 0),
        ("5s+5s", 10),
        ("5 .5", 5.5),
        ("584541y.5m", 584541 * 31557600 + 30),
    ],
)
def test_accepted(text: str, seconds: float) -> None:
    assert parse_timespan(text) == round(seconds * SECOND)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "5.", "0.", "1.s", "1.2.3s", "1e3", "0x10", "1,5", "10foo", "5secs", "5S", "5mon", "1ns"),
        *(
            "5+5",
            "5-",
            "5.5.5",
            "12-\t",
            "off",
            "default",
            "Infinity",
            "inf",
            "5 infinity",
            "infinity 5",
            "+ 5",
            "++5",
        ),
    ],
)
def test_invalid(text: str) -> None:
    with pytest.raises(TimeSpanError) as caught:
        parse_timespan(text)
    assert not isinstance(caught.value, TimeSpanRange)


@pytest.mark.parametrize("text", ["-1", "- 5", "1min -5s", "18446744073709551615us", "584543y"])
def test_out_of_range(text: str) -> None:
    with pytest.raises(TimeSpanRange):
        parse_timespan(text)


def test_infinity() -> None:
    assert parse_timespan(" infinity ") == INFINITY
    assert format_timespan(INFINITY) == "infinity"


@pytest.mark.parametrize(
    ("usec", "shown"),
    [
        (0, "0"),
        (500, "500us"),
        (500_000, "500ms"),
        (55_500_000, "55.500000s"),
        (3_723_004_005, "1h 2min 3.004005s"),
        (90 * SECOND, "1min 30s"),
        (100000 * SECOND, "1d 3h 46min 40s"),
        (600 * SECOND, "10min"),
    ],
)
def test_shown(usec: int, shown: str) -> None:
    assert format_timespan(usec) == shown
