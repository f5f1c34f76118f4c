"""Arguments as a C extension takes them: which values pass, what they become, how a wrong one is refused.

The `sanlock` module of python3-sanlock is such an extension; programs rely on what it accepts (numbers that wrap
at 64 bits, paths of three types, names as bytes only). A function is written with its ordinary signature, its
parameters are annotated with the types of this module, and `c_arguments` converts before it is called.
The rules and texts are those of CPython's PyArg_ParseTupleAndKeywords.
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, ParamSpec, TypeVar, get_args, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")

INT_MIN: Final = -(1 << 31)
INT_MAX: Final = (1 << 31) - 1
LONG_MIN: Final = -(1 << 63)
LONG_MAX: Final = (1 << 63) - 1
UINT32_MASK: Final = (1 << 32) - 1
UINT64_MASK: Final = (1 << 64) - 1

Converter = Callable[[object, int], Any]
"""From the value given and the position (1 is the first) to the value used; TypeError or ValueError."""


class _Parameter(NamedTuple):
    name: str
    convert: Converter
    required: bool
    default: Any


def _wrong_type(value: object, position: int, wanted: str) -> TypeError:
    shown = "None" if value is None else type(value).__name__
    return TypeError(f"argument {position} must be {wanted}, not {shown}")


def to_name(value: object, position: int) -> bytes:
    """Bytes and nothing else."""
    if not isinstance(value, bytes):
        raise TypeError(f"Argument type is not bytes: {value!r}")
    return value


def to_path(value: object, position: int = 1) -> bytes:
    """str, bytes or os.PathLike, as bytes without a zero byte."""
    raw = os.fsencode(value)  # type: ignore[arg-type]
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    return raw


def to_uint64(value: object, position: int) -> int:
    """An int; only its lower 64 bits count."""
    if not isinstance(value, int):
        raise _wrong_type(value, position, "int")
    return value & UINT64_MASK


def to_uint32(value: object, position: int) -> int:
    """An int or what has __index__; only its lower 32 bits count."""
    return operator.index(value) & UINT32_MASK  # type: ignore[arg-type]


def to_long(value: object, position: int) -> int:
    """A number of 64 bits with sign."""
    number = operator.index(value)  # type: ignore[arg-type]
    if not LONG_MIN <= number <= LONG_MAX:
        raise OverflowError("Python int too large to convert to C long")
    return number


def to_int(value: object, position: int) -> int:
    """A number of 32 bits with sign."""
    number = to_long(value, position)
    if number > INT_MAX:
        raise OverflowError("signed integer is greater than maximum")
    if number < INT_MIN:
        raise OverflowError("signed integer is less than minimum")
    return number


def to_list(value: object, position: int) -> list[Any]:
    """A list; no other sequence."""
    if not isinstance(value, list):
        raise _wrong_type(value, position, "list")
    return value


def to_object(value: object, position: int) -> object:
    """Anything; the function looks at it itself."""
    return value


PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Name = Annotated[bytes, to_name]
Path = Annotated[PathLike, to_path]
UInt64 = Annotated[int, to_uint64]
UInt32 = Annotated[int, to_uint32]
Long = Annotated[int, to_long]
Int = Annotated[int, to_int]
Flag = Annotated[bool | int, to_int]
# Any: a list of (str, int) is no list of (str or bytes, int) to a type checker.
Disks = Annotated[list[tuple[Any, int]], to_list]
Texts = Annotated[list[Any], to_list]
Version = Annotated[int | None, to_object]


def c_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Convert the arguments of each call by the annotations; by position or by name, as the signature says."""
    parameters = _parameters(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*_bind(parameters, args, kwargs))  # type: ignore[call-arg]

    return call


def c_positional_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """As `c_arguments` for a function that takes no keywords and has no optional arguments."""
    parameters = _parameters(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs:
            raise TypeError(f"{function.__name__}() takes no keyword arguments")
        wanted = len(parameters)
        if len(args) != wanted:
            raise TypeError(
                f"function takes exactly {wanted} argument{'' if wanted == 1 else 's'} ({len(args)} given)"
            )
        values = [
            parameter.convert(value, position)
            for position, (parameter, value) in enumerate(zip(parameters, args, strict=True), 1)
        ]
        return function(*values)  # type: ignore[call-arg]

    return call


def c_no_arguments(function: Callable[[], R]) -> Callable[[], R]:
    """As `c_arguments` for a function of the `sanlock` module that takes nothing."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> R:
        if kwargs:
            raise TypeError(f"sanlock.{function.__name__}() takes no keyword arguments")
        if args:
            raise TypeError(f"sanlock.{function.__name__}() takes no arguments ({len(args)} given)")
        return function()

    return call


def _parameters(function: Callable[..., Any]) -> tuple[_Parameter, ...]:
    hints = get_type_hints(function, include_extras=True)
    return tuple(
        _Parameter(
            name,
            get_args(hints[name])[1],
            parameter.default is inspect.Parameter.empty,
            None if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for name, parameter in inspect.signature(function).parameters.items()
    )


def _bind(parameters: Sequence[_Parameter], args: Sequence[object], kwargs: Mapping[str, object]) -> list[Any]:
    """The converted values in order. Converts from left to right, up to the first that is wrong or missing."""
    given = len(args) + len(kwargs)
    if given > len(parameters):
        keyword = "" if args else "keyword "
        plural = "" if len(parameters) == 1 else "s"
        raise TypeError(f"function takes at most {len(parameters)} {keyword}argument{plural} ({given} given)")
    values: list[Any] = []
    used = 0
    for position, parameter in enumerate(parameters, 1):
        if position <= len(args):
            values.append(parameter.convert(args[position - 1], position))
        elif parameter.name in kwargs:
            values.append(parameter.convert(kwargs[parameter.name], position))
            used += 1
        elif parameter.required:
            raise TypeError(f"function missing required argument '{parameter.name}' (pos {position})")
        else:
            values.append(parameter.default)
    if used < len(kwargs):
        _refuse_keywords([parameter.name for parameter in parameters], len(args), kwargs)
    return values


def _refuse_keywords(names: list[str], positional: int, kwargs: Mapping[str, object]) -> None:
    for position, name in enumerate(names[:positional], 1):
        if name in kwargs:
            raise TypeError(f"argument for function given by name ('{name}') and position ({position})")
    for name in kwargs:
        if name not in names:
            raise TypeError(f"'{name}' is an invalid keyword argument for this function")
