"""docs/design.md draws the states and the paths that there are."""

import asyncio
import re
import sys
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from calling import LOOPBACK, serve

import distributed_comm as dc
from distributed_comm._wire.states import TRANSITIONS, State

ROOT = Path(dc.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "design.md").read_text()


def render(transitions, states):
    """Return the table as a mermaid diagram, without what changes nothing.

    An event that leads from everywhere to one state is drawn once.
    """
    events = list(dict.fromkeys(event for _, event in transitions))
    ends = {event: {transitions.get((state, event)) for state in states} for event in events}
    arrows = {}
    for (start, event), end in transitions.items():
        name = "ANY" if ends[event] == {end} else start.name
        if start is not end:
            arrows.setdefault((name, end.name), {})[event.value] = None
    lines = [f"    {start} --> {end} : {', '.join(arrows[start, end])}" for start, end in arrows]
    lines.sort(key=lambda line: "ANY" in line)
    head = ['    state "any state" as ANY', f"    [*] --> {next(iter(states)).name}"]
    return "\n".join(["stateDiagram-v2", *head, *lines])


def test_the_diagram_is_the_table():
    assert f"```mermaid\n{render(TRANSITIONS, State)}\n```" in PAGE


def test_what_is_drawn_and_what_is_not():
    state = Enum("state", "UP DOWN GONE")
    event = Enum("event", {"PUSH": "push", "PULL": "pull", "LOSE": "lose"})
    table = {(start, event.LOSE): state.GONE for start in state}
    table |= {
        (state.UP, event.PUSH): state.DOWN,
        (state.UP, event.PULL): state.DOWN,
        (state.DOWN, event.PULL): state.UP,
        (state.DOWN, event.PUSH): state.DOWN,
    }
    assert render(table, state).splitlines()[2:] == [
        "    [*] --> UP",
        "    UP --> DOWN : push, pull",
        "    DOWN --> UP : pull",
        "    ANY --> GONE : lose",
    ]


# -- paths ------------------------------------------------------------------------------------


def steps(head):
    """Return the file and the function that each numbered step of a section begins with."""
    section = PAGE.split(f"\n## {head}\n")[1].split("\n## ")[0]
    items = re.findall(r"^\d+\. ((?:.|\n(?!\d|\n))*)", section, re.MULTILINE)
    placed = (re.search(r"`(\w[\w.]*)`\s+\(`([\w/]+\.py)`\)", item) for item in items)
    return [(found[2], found[1]) for found in placed if found]


@contextmanager
def noting_calls():
    """Note what is called in the package, and which coroutines go on."""
    noted = []

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            noted.append((path.relative_to(ROOT).as_posix(), frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        yield noted
    finally:
        sys.setprofile(None)


def missing(expected, noted):
    """Return the first of the expected calls that does not come behind those before it."""
    rest = iter(noted)
    return next((call for call in expected if call not in rest), None)


def test_a_message_takes_the_path_that_is_drawn(run):
    async def main():
        got = asyncio.get_running_loop().create_future()

        async def handle(comm):
            await comm.read()  # which says the limits, in front of the first message
            got.set_result(await comm.read())
            await comm.close()

        async with (
            dc.listen(LOOPBACK, handle, trusted=True) as listener,
            await dc.connect(listener.contact_address, trusted=True) as comm,
        ):
            await comm.write("first")
            with noting_calls() as noted:
                await comm.write({"x": 1})
                assert await got == {"x": 1}
        path = steps("The path of one message")
        assert len(path) == 8  # of ten: a short message does not wait, and kernels are not seen
        assert missing(path, noted) is None
        assert missing(path[::-1], noted)

    run(main())


def test_a_call_takes_the_path_that_is_drawn(run):
    async def main():
        async with serve({"op": lambda x: x}, trusted=True) as (_, remote):
            await remote.op(x=1)
            with noting_calls() as noted:
                assert await remote.op(x=1) == 1
        path = steps("The path of one call")
        assert len(path) == 9
        assert missing(path, noted) is None
        assert missing(path[::-1], noted)

    run(main())
