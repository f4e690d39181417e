"""What must never open a pickle, and is seen if it does."""

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def no_unpickling() -> Iterator[None]:
    """Fail at the end if a pickle was opened, whatever became of the error that it got.

    A Dask peer in this process may open its own.
    """
    opened: list[str] = []

    def refuse(original: Callable[..., Any]) -> Callable[..., Any]:
        def refused(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_globals["__name__"]
            if caller.startswith("distributed."):
                return original(*args, **kwargs)
            opened.append(caller)
            raise pickle.UnpicklingError("no pickle may be opened here")

        return refused

    loads, unpickler = refuse(pickle.loads), refuse(pickle.Unpickler)
    with mock.patch("pickle.loads", loads), mock.patch("pickle.Unpickler", unpickler):
        yield
    assert not opened
