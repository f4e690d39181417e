"""Which types have frames of their own instead of a pickle, by class and by name.

A class is registered with two functions, as in Dask. The registrations that are built in,
and those of `register_serialization_lazy`, are made when the first type of their library is
met: an instance that is written, or a name that was received. A name is compared with what
is registered and is never imported, so a peer chooses among these libraries and no others.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from threading import RLock
from typing import Any

from .._frames import Buffer
from . import pickles
from .gate import Gate

__all__ = [
    "Registered",
    "dask_header",
    "find",
    "find_named",
    "pickled_class",
    "register_serialization",
    "register_serialization_lazy",
    "type_name",
]

#: Library -> the modules of `types` that have its types; "builtins" has those without a dot.
BUILT_IN = {
    "array": ["buffers"],
    "builtins": ["buffers"],
    "numpy": ["numpy_arrays", "numpy_masked"],
    "pyarrow": ["arrow_streams"],
    "scipy": ["scipy_sparse"],
    "torch": ["torch_tensors"],
}
#: Those of the standard library, which may always be loaded.
STANDARD = {"array", "builtins"}
#: What registering a library's types imports, where that is not the package alone.
NEEDS = {"scipy": "scipy.sparse"}
#: A program may make classes without end: so many are remembered before all are forgotten.
REMEMBERED = 4096


def never(_of: Any) -> bool:
    """The default of what may be said of an object or of a header."""
    return False


@dataclass(frozen=True, slots=True)
class Registered:
    """How the instances of a class become a header and frames, and again an instance.

    ``serialize`` may raise NotImplementedError for an object that it leaves to another
    family. ``deserialize`` is given the message's gate, and asks it before it opens a pickle
    or makes anything that is not in the frames: only what it really reads is judged. What is
    not ``safe`` never gets a stranger's header. ``known_to_dask`` is False where a plain Dask
    peer cannot read the type, and has to be sent a pickle. Many bytes are no work for the event
    loop, unless these say of the object, or of the header, that its bytes are neither copied
    nor looked at.
    """

    name: str
    cls: type
    serialize: Callable[[Any], tuple[dict[str, Any], list[Buffer]]]
    deserialize: Callable[[dict[str, Any], list[Buffer], Gate], Any]
    safe: bool = True
    known_to_dask: bool = True
    writes_at_once: Callable[[Any], bool] = never
    reads_at_once: Callable[[dict[str, Any]], bool] = never


def type_name(cls: type) -> str:
    """Return the name of a class as Dask's headers have it.

    >>> type_name(bytes), type_name(Registered)
    ('bytes', 'distributed_comm._serialize.type_registry.Registered')
    """
    if not cls.__module__ or cls.__module__ == "builtins":
        return cls.__name__
    return f"{cls.__module__}.{cls.__name__}"


def _library(name: str) -> str:
    """Return which entry of `BUILT_IN` a class of this name would belong to."""
    package, dot, _ = name.partition(".")
    return package if dot else "builtins"


class Types:
    """The registered types of a process; any thread may ask and register."""

    def __init__(self) -> None:
        self._classes: dict[type, Registered] = {}
        self._names: dict[str, Registered] = {}
        self._found: dict[type, Registered | None] = {}  # what `find` knows by now
        self._lazy: dict[str, list[Callable[[], None]]] = {
            library: [partial(self._add_built_in, module) for module in modules]
            for library, modules in BUILT_IN.items()
        }
        self._lock = RLock()  # held while libraries register: others wait for their types

    def add(self, registered: Registered) -> None:
        self._classes[registered.cls] = registered
        self._names[registered.name] = registered
        # A new dict, for another thread may yet write what it did not find into the old one.
        self._found = {}

    def _add_built_in(self, module: str) -> None:
        """Add what a module here has, below what the user has registered."""
        for registered in import_module(f"{__package__}.types.{module}").registrations():
            self._classes.setdefault(registered.cls, registered)
            self._names.setdefault(registered.name, registered)
        self._found = {}

    def add_lazy(self, toplevel: str, register: Callable[[], None]) -> None:
        # Without the lock: the thread that holds it may be waiting for the caller's import.
        self._lazy.setdefault(toplevel, []).append(register)
        self._found = {}

    def find(self, cls: type) -> Registered | None:
        """Return the registration of a class or of its first registered base, for writing.

        A base's ``serialize`` decides whether it takes an instance of the subclass.
        """
        try:
            return self._found[cls]
        except KeyError:
            return self._search(cls)

    def _search(self, cls: type) -> Registered | None:
        for base in cls.__mro__:
            self._load(_library(type_name(base)))
        found = self._found
        result = next((self._classes[base] for base in cls.__mro__ if base in self._classes), None)
        if len(found) >= REMEMBERED:
            found.clear()
        found[cls] = result
        return result

    def find_named(self, name: str, *, imports: bool = True) -> Registered | None:
        """Return the registration of this very name, for reading; a base's does not count.

        With ``imports=False`` a name does not load what the process has not imported yet:
        torch takes seconds, which a stranger should not be able to ask for.
        """
        if name not in self._names:
            library = _library(name)
            needed = NEEDS.get(library, library)
            if imports or needed in sys.modules or library in STANDARD:
                self._try_load(library)
        return self._names.get(name)

    def loaded(self, name: str) -> Registered | None:
        """Return the registration of this name, if it has been made; nothing is loaded."""
        return self._names.get(name)

    def _try_load(self, library: str) -> None:
        try:
            self._load(library)
        except ModuleNotFoundError as exc:
            if exc.name != library:  # it is there, and lacks something
                raise

    def _load(self, library: str) -> None:
        """Have the types of a library registered, once."""
        if waiting := self._lazy.get(library):
            with self._lock:
                while waiting:
                    waiting[0]()
                    del waiting[0]


_types = Types()
find = _types.find
find_named = _types.find_named


def register_serialization(
    cls: type,
    serialize: Callable[[Any], tuple[dict[str, Any], list[Buffer]]],
    deserialize: Callable[[dict[str, Any], list[Buffer]], Any],
    *,
    safe: bool = False,
) -> None:
    """Have instances of a class sent in frames of their own, as Dask's function of this name.

    ``serialize(obj)`` returns a header of msgpack's types and a list of frames; what it
    raises NotImplementedError for goes as a pickle. It is called for instances of subclasses,
    too, and decides about them. ``deserialize(header, frames)`` is called at the peer, which
    must have registered the class as well. Pass ``safe=True`` where it may be given anything
    that a stranger likes to send.
    """
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} is no class; register_serialization_lazy takes a package's name")

    def as_given(header: dict[str, Any], frames: list[Buffer], _gate: Gate) -> Any:
        return deserialize(header, frames)

    _types.add(Registered(type_name(cls), cls, serialize, as_given, safe))


def register_serialization_lazy(toplevel: str, register: Callable[[], None]) -> None:
    """Have ``register`` called, once, before the first type of a top-level package is looked up.

    It imports the package and calls `register_serialization`.
    """
    _types.add_lazy(toplevel, register)


@cache
def _pickle_class(cls: type) -> bytes:
    return pickles.dumps(cls, trusted=True, protocol=4)[0]


def pickled_class(name: Any) -> bytes | None:
    """Return the pickle of the class that has a name on the wire, None for what cannot be one.

    Nothing is imported or looked up for it: where the name is not registered yet, the pickle
    is ``GLOBAL`` and ``STOP`` (see pickletools), which say where a class is to be found.
    """
    if not isinstance(name, str):
        return None
    found = _types.loaded(name)
    if found is not None:
        return _pickle_class(found.cls)
    module, _, kind = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")):  # a line more would be an opcode
        return None
    return b"c%b\n%b\n." % ((module or "builtins").encode(), kind.encode())


def dask_header(registered: Registered, header: dict[str, Any]) -> dict[str, Any]:
    """Return the header of Dask's family ``dask`` around what a type's ``serialize`` returned.

    Only Dask opens the pickle in it, which holds a class and no object.
    """
    return {
        "serializer": "dask",
        "type": registered.name,
        "type-serialized": _pickle_class(registered.cls),
        "sub-header": header,
    }
