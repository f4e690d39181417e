"""The diagram of states in docs/design.md is the table in _wire/states.py."""

from enum import Enum
from pathlib import Path

from distributed_comm._wire.states import TRANSITIONS, State

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
