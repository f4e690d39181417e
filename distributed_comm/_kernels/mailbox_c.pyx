# cython: language_level=3, binding=False
"""The compiled twin of mailbox_py, which says what is done here, and why that is allowed."""

import asyncio.tasks
import sys
from asyncio import CancelledError, _get_running_loop
from asyncio.tasks import _enter_task, _leave_task
from collections import deque

from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF

from . import mailbox_py as twin

cdef enum:
    MOST_UNREAD = 1_000
    MOST_SENT = 1_000
    TOLL = 8
    SECONDS_FRESH = 1

HIGH_WATER = MOST_UNREAD
PAUSE = MOST_SENT
EMPTY = twin.EMPTY
NOT_PLAIN = twin.NOT_PLAIN

# before Python 3.12 current_task() looks into this dict, slowly, in Python
cdef dict current_tasks = asyncio.tasks._current_tasks if sys.version_info < (3, 12) else None

cdef extern from "Python.h":
    PyObject* PyErr_GetHandledException() noexcept
    PyObject* PyThreadState_GetDict() noexcept
    PyObject* PyDict_GetItemWithError(object, object) except? NULL


cdef inline current_task(loop):
    if current_tasks is None:
        return asyncio.tasks.current_task(loop)
    return current_tasks.get(loop)


cdef extern from *:
    """
    #ifdef _WIN32
    #include <windows.h>
    static double moment(void) { return 1e-3 * (double)GetTickCount64(); }
    #else
    #include <time.h>
    static double moment(void) { /* as time.monotonic(), without a call from Python */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    #endif
    """
    double moment() noexcept

# where asyncio keeps the loop that runs in a thread, up to Python 3.13
cdef str RUNNING = "__asyncio_running_event_loop__"


cdef class Switch:
    cdef object __weakref__
    cdef readonly object loop
    cdef readonly bint busy
    cdef object mark  # what asyncio had in the thread's state when our loop was found to run

    def __init__(self, loop):
        self.loop = loop

    def runs(self):
        return self.is_running()

    # asyncio's function asks the system for the process before Python 3.12, at 120 ns. The
    # users of this hear of a fork otherwise.
    cdef inline bint is_running(self) except -1:
        cdef PyObject* state = PyThreadState_GetDict()
        cdef PyObject* mark = NULL
        if state != NULL:
            mark = PyDict_GetItemWithError(<object>state, RUNNING)
        # From Python 3.12 on, None stands there while no loop runs: it is no mark.
        if mark != NULL and mark == <PyObject*>self.mark and self.mark is not None:
            return True
        if _get_running_loop() is not self.loop:
            return False
        self.mark = <object>mark if mark != NULL else None
        return True


cdef class Waiter:
    cdef public bint _asyncio_future_blocking
    cdef public bint waiting
    cdef readonly Switch switch
    cdef bint cancelled
    cdef double touched
    cdef object message, wakeup, context

    def __init__(self, Switch switch not None):
        self.switch = switch
        self.touched = moment()

    def __await__(self):
        if self.waiting:
            raise RuntimeError("another task waits here")
        self.cancelled = False
        self._asyncio_future_blocking = True
        return self

    def __next__(self):
        if self._asyncio_future_blocking:  # the task sees this, and sets it back
            return self
        raise StopIteration

    def wake(self):
        if self.waiting:
            wakeup, context = self.wakeup, self.context
            self.leave()
            self.switch.loop.call_soon(wakeup, self, context=context)

    cdef inline void leave(self) noexcept:
        self.wakeup = self.context = None
        self.waiting = False

    def touch(self):
        self.touched = moment()

    def is_fresh(self):
        return self.switch.is_running() and moment() - self.touched < SECONDS_FRESH

    def hand_over(self):
        self.touched = moment()
        self.run()

    cdef run(self):
        cdef Switch switch = self.switch
        cdef object wakeup = self.wakeup, context = self.context, task
        cdef PyObject* handled = PyErr_GetHandledException()
        Py_XDECREF(handled)
        if switch.busy or not self.waiting or handled != NULL:
            self.wake()
            return
        self.leave()
        task = current_task(switch.loop)
        switch.busy = True
        if task is not None:
            _leave_task(switch.loop, task)
        try:
            try:
                PyContext_Enter(context)
            except RuntimeError:  # it is entered: the two tasks share it
                switch.loop.call_soon(wakeup, self, context=context)
            else:
                try:
                    wakeup(self)
                finally:
                    PyContext_Exit(context)
        finally:
            if task is not None:
                _enter_task(switch.loop, task)
            switch.busy = False

    # -- what a task asks of a future --------------------------------------------------

    def get_loop(self):
        return self.switch.loop

    def add_done_callback(self, callback, *, context=None):
        self.wakeup = callback
        self.context = context
        self.waiting = True

    def result(self):
        if self.cancelled:
            message, self.message = self.message, None
            raise CancelledError(*(() if message is None else (message,)))

    def cancel(self, msg=None):
        if not self.waiting:
            return False
        self.cancelled = True
        self.message = msg
        self.wake()
        return True


cdef class Mailbox(Waiter):
    cdef public bint plain, crowded, reading, talks
    cdef public Py_ssize_t sent, pause_at
    cdef public unsigned long thread
    cdef public Mailbox peer
    cdef readonly object inbox
    cdef object append, popleft  # of the inbox

    def __init__(self, Switch switch not None, unsigned long thread):
        self.switch = switch
        self.thread = thread
        self.inbox = deque()
        self.append = self.inbox.append
        self.popleft = self.inbox.popleft
        self.pause_at = MOST_SENT

    cdef inline bint is_plain(self) except -1:
        return self.plain and self.switch.is_running()

    def post(self, message):
        cdef Mailbox peer = self.peer
        if not self.is_plain() or self.sent >= self.pause_at or len(peer.inbox) >= MOST_UNREAD:
            return False
        peer.append(message)
        self.sent += 1
        if peer.waiting:
            if self.talks:
                self.pause_at -= TOLL
                peer.run()
                self.talks = len(self.inbox) > 0
            else:
                peer.wake()
        return True

    def take(self):
        if not self.is_plain() or self.reading or self.crowded:
            return NOT_PLAIN
        if len(self.inbox):
            return self.popleft()
        self.talks = self.reading = True
        return EMPTY
