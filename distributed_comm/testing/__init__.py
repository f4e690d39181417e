"""What every backend promises, as checks for its author's own tests; no pytest is needed.

Each of `CHECKS` takes an address to listen on, returns where its promise is kept, and
raises an AssertionError that says what was expected::

    @pytest.mark.parametrize("check", testing.CHECKS)
    def test_conformance(check):
        distributed_comm.run(check("mine://somewhere"))

Messages are plain data, and a list may arrive as a tuple. A check of two comms runs twice:
from the side that dialled, and from the side that was dialled.
"""

from ._checks import CHECKS

__all__ = ["CHECKS"]
