"""Seconds of one thread, told apart by the parts of a program that took them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock


@dataclass
class Stopwatch:
    """Seconds of one thread by part."""

    clock: Callable[[], float] = time.perf_counter
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _inner: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is inside, without the parts inside of that."""
        start = self.clock()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = self.clock() - start
            self.seconds[name] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    def method(self, owner: type, name: str, part: str) -> Any:
        """A patch that times a method of every object."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return original(*args, **kwargs)

        return mock.patch.object(owner, name, timed)
