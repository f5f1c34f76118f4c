"""Two I/Os at the same time, without a task: creating and ending one costs as much as a small read.

Asyncio's own ways (`gather`, TaskGroup) wrap each coroutine in a Task and come back one turn of the loop later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

First = TypeVar("First")
Second = TypeVar("Second")


async def together(
    first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]
) -> tuple[First | Exception, Second | Exception]:
    """Run both and return what each returned or raised; a cancellation ends both.

    `first` runs up to its first wait, then `second` to its end, then the rest of `first`: what `first` does
    after that wait, and what it raises, is seen only when `second` has ended. So both must be single I/Os with
    deadlines of their own. Neither may need the identity of its task.
    """
    begun: First | Exception | _Begun[First]
    try:
        begun = _Begun(first, first.send(None))
    except StopIteration as ended:
        begun = ended.value
    except Exception as error:
        begun = error
    after: Second | Exception
    try:
        after = await second
    except Exception as error:
        after = error
    except BaseException:
        if isinstance(begun, _Begun):
            begun.cancel()
        raise
    if not isinstance(begun, _Begun):
        return begun, after
    try:
        return await begun, after
    except Exception as error:
        return error, after


class _Begun(Generator[Any, Any, First]):
    """A coroutine that has run up to its first wait, to be gone on with by whoever awaits this."""

    __slots__ = ("_awaited", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, First], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, First]:
        return self

    def send(self, value: Any) -> Any:
        awaited, self._awaited = self._awaited, None
        if awaited is None or (asyncio.isfuture(awaited) and awaited.done()):
            return self._coroutine.send(value)
        return awaited  # Still pending: the task waits for it as it would have done for `first` itself.

    def throw(self, *args: Any) -> Any:
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._coroutine.close()

    def cancel(self) -> None:
        """End it as a cancelled task does. Its I/O lives on, as after every cancellation (see `Disk`)."""
        try:
            self._coroutine.throw(asyncio.CancelledError())
        except (asyncio.CancelledError, StopIteration):
            return
        except Exception:
            return  # It had an error of its own; nobody is left who wants it.
        self._coroutine.close()
