"""Order in a directed graph, without recursion: a cycle, or everything after what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def find_cycle(nodes: Iterable[T], waits_for: Callable[[T], Iterable[T]]) -> list[T] | None:
    """Nodes each of which waits for the next, and the last for the first; None: there are none."""
    done: set[T] = set()
    for root in nodes:
        if root in done:
            continue
        place: dict[T, int] = {root: 0}
        stack: list[tuple[T, Iterator[T]]] = [(root, iter(waits_for(root)))]
        while stack:
            node, rest = stack[-1]
            following = next((one for one in rest if one not in done), None)
            if following is None:
                stack.pop()
                del place[node]
                done.add(node)
            elif following in place:
                return [on_path for on_path, _ in stack][place[following] :]
            else:
                place[following] = len(stack)
                stack.append((following, iter(waits_for(following))))
    return None


def ordered(nodes: Iterable[T], waits_for: Callable[[T], Iterable[T]]) -> list[T]:
    """What is waited for comes first; otherwise as given. There must be no cycle."""
    out: dict[T, None] = {}
    for root in nodes:
        stack: list[tuple[T, Iterator[T]]] = [] if root in out else [(root, iter(waits_for(root)))]
        while stack:
            node, rest = stack[-1]
            following = next((one for one in rest if one not in out), None)
            if following is None:
                stack.pop()
                out[node] = None
            else:
                stack.append((following, iter(waits_for(following))))
    return list(out)
