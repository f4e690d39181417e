# cython: language_level=3, nonecheck=True
"""The hot half of `_loops.turns`, compiled; `turns_py` is its specification."""

from time import monotonic

__all__ = ["Account", "Gauge", "Presence", "Steps", "Tally", "charge"]

cdef extern from *:
    """
    #include <time.h>
    #if defined(CLOCK_THREAD_CPUTIME_ID)
    static double processor(void) {
        struct timespec now;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    #else
    #include <windows.h>
    static double processor(void) { /* as time.thread_time() */
        FILETIME created, ended, kernel, user;
        ULARGE_INTEGER system, own;
        GetThreadTimes(GetCurrentThread(), &created, &ended, &kernel, &user);
        system.u.LowPart = kernel.dwLowDateTime;
        system.u.HighPart = kernel.dwHighDateTime;
        own.u.LowPart = user.dwLowDateTime;
        own.u.HighPart = user.dwHighDateTime;
        return 1e-7 * (double)(system.QuadPart + own.QuadPart);
    }
    #endif
    """
    double processor() noexcept

cdef double EVENT = 2e-6
cdef Py_ssize_t SIP = 4 * 1024
cdef double HEAVY = 2e-3
cdef Py_ssize_t WHOLE = 64 * 1024


cdef class Tally:
    cdef public bint inside, turned
    cdef public double began, spent
    cdef public long long look

    def count_look(self):
        self.look += 1
        self.turned = False


cdef class Account:
    cdef public double debt, limit, least
    cdef public bint closed

    def __init__(self, double limit):
        self.limit = self.least = limit


cdef inline bint owe(Tally tally, Account account, double seconds) noexcept:
    tally.spent += seconds
    account.debt += seconds
    if seconds > HEAVY:
        account.limit = account.least
        tally.turned = False
    if account.debt <= account.limit or account.closed:
        return False
    account.closed = True
    return True


def charge(Tally tally not None, Account account not None, double seconds):
    return owe(tally, account, seconds)


cdef class Gauge:
    cdef public Tally tally
    cdef public Account lane
    cdef public double charged
    cdef public bint left
    cdef object _get_buffer, _receive
    cdef long long _look
    cdef bint _partial

    def __init__(self, Tally tally not None, Account lane not None):
        self.tally = tally
        self.lane = lane
        self._look = -1

    def stand_above(self, below):
        self._get_buffer = below.get_buffer
        self._receive = below.buffer_updated

    def get_buffer(self, sizehint):
        self.tally.began = processor()
        view = self._get_buffer(sizehint)
        return view[:SIP] if self.lane.closed else view

    def buffer_updated(self, nbytes):
        cdef Tally tally = self.tally
        cdef Account lane = self.lane
        cdef double seconds
        if lane.closed:
            self.hold_back()
        if self._look == tally.look and self._partial:
            tally.turned = True
        self._look = tally.look
        self._partial = <Py_ssize_t>nbytes < WHOLE
        tally.inside = True
        try:
            self._receive(nbytes)
        finally:
            tally.inside = False
            if not self.left:
                seconds = processor() - tally.began + EVENT
                self.charged += seconds
                if owe(tally, lane, seconds):
                    self.has_closed(lane)
        if self.lane.closed:
            self.wait()

    def hold_back(self):
        raise NotImplementedError

    def has_closed(self, lane):
        raise NotImplementedError

    def wait(self):
        raise NotImplementedError


cdef class Steps:
    cdef object _work, _send, _closed
    cdef Tally _tally
    cdef Account _lane

    def __init__(self, work, Tally tally not None, Account lane not None, closed):
        self._work = work
        self._send = work.send
        self._tally = tally
        self._lane = lane
        self._closed = closed

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self._step(self._send, None)

    def send(self, value):
        return self._step(self._send, value)

    def throw(self, *exc):
        return self._step(self._throw, exc)

    def close(self):
        self._work.close()

    def _throw(self, exc):
        return self._work.throw(*exc)

    cdef object _step(self, step, value):
        cdef Tally tally = self._tally
        if tally.inside:
            return step(value)
        tally.inside = True
        tally.began = processor()
        try:
            return step(value)
        finally:
            tally.inside = False
            if owe(tally, self._lane, processor() - tally.began):
                self._closed()


cdef class Presence:
    cdef public double since
    cdef object _framing, _receive, _queue, _move

    def __init__(self):
        self.since = monotonic()

    @property
    def framing(self):
        return self._framing

    @framing.setter
    def framing(self, framing):
        self._framing = framing
        self._receive = framing.receive

    @property
    def queue(self):
        return self._queue

    @queue.setter
    def queue(self, queue):
        self._queue = queue
        self._move = None if queue is None else queue.move_to_end

    def receive(self, nbytes):
        messages = self._receive(nbytes)
        if messages or self._framing.mid_message:
            self.stir()
        return messages

    cpdef stir(self):
        if self._move is not None:
            self.since = monotonic()
            self._move(self)
