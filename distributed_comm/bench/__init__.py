"""The benchmark, a command: ``python -m distributed_comm.bench``; ``--help`` explains it.

There is nothing here to import.
"""

__all__: list[str] = []
