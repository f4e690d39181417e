"""``distributed_comm`` with busy polling, for whoever can spare a core for it on both sides."""

from functools import partial

import distributed_comm as dc
from distributed_comm.bench._systems import ours
from distributed_comm.bench._systems.ours import KINDS, item, nbytes, run

__all__ = ["KINDS", "TRANSPORTS", "connect", "item", "listen", "nbytes", "run"]

TRANSPORTS = ours.TRANSPORTS - {"inproc"}  # where nobody sleeps
OPTIONS = dc.CommOptions(busy_poll=50e-6)

listen = partial(ours.listen, options=OPTIONS)
connect = partial(ours.connect, options=OPTIONS)
