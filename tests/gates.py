"""Gates for tests that call what reads a type: a trusted peer's, and a stranger's."""

from distributed_comm._serialize.gate import TRUSTED, Gate, StrangersGate
from distributed_comm._serialize.settings import LoadOptions

__all__ = ["ROOMY", "TRUSTED", "gate_of"]

#: Bytes of a message that may become anything that a test looks at.
ROOMY = 64 * 1024 * 1024


def gate_of(stranger: bool, nbytes: int = ROOMY) -> Gate:
    """Return the gate of a message of so many bytes."""
    return StrangersGate(nbytes, LoadOptions(most=None)) if stranger else TRUSTED
