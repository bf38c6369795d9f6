"""What all transports share: the native core's state, flow control, errors and end, and the methods that the shells forward to it.

Used by `_stream`, `_datagram` and `_pipe`, whose cores inherit from TransportCore and whose shells inherit from the shells here. Calls `_loop`
and `_op`.

A transport is two objects, because asyncio's transport classes have slots that a native class cannot inherit: the shell is what users hold,
an instance of asyncio's class; the core is what requests own. Core and shell refer to each other until connection_lost.

What is in here runs once per connection, or when a water mark is crossed. What runs per message is each kind's own direct code.
"""

from aiouring._loop cimport Flushable, LoopCore

import asyncio
import warnings
from asyncio import constants, trsock
from asyncio.log import logger


cdef class TransportCore(Flushable):
    """The native side of a transport."""

    def __cinit__(self):
        self.fd = -1

    def __repr__(self):
        return repr(self.shell) if self.shell is not None else f"<{type(self).__name__} fd={self.fd} lost>"

    # -- the beginning ----------------------------------------------------------------------------------------------------------------

    cdef int attach(self, object shell, LoopCore loop, object file, object protocol, object context) except -1:
        self.loop = loop
        self.shell = shell
        if file is not None:
            self.file = file
            self.fd = file.fileno()
        self.context = PyContext_CopyCurrent() if context is None else context
        self.set_limits(None, None)
        return self.set_protocol(protocol)

    cdef int announce(self, object waiter) except -1:
        """connection_made, then the first requests, then whoever waits for the transport."""
        self.loop.add_ready(self.protocol.connection_made, (self.shell,), self.context)
        self.loop.add_ready(self.start, (), self.context)
        if waiter is not None:
            self.loop.add_ready(asyncio.futures._set_result_unless_cancelled, (waiter, None), None)
        return 0

    def start(self):
        raise NotImplementedError

    cdef int set_protocol(self, object protocol) except -1:
        self.protocol = protocol
        return 0

    # -- reading ----------------------------------------------------------------------------------------------------------------------

    def is_reading(self):
        return not self.closing and not self.paused

    def pause_reading(self):
        if self.closing or self.paused:
            return
        self.loop.ops.check()           # refuse before anything has changed
        self.paused = True
        self.reading_paused()
        if self.loop._debug:
            logger.debug("%r pauses reading", self.shell)

    def resume_reading(self):
        if self.closing or not self.paused:
            return
        self.loop.ops.check()
        self.paused = False
        self.reading_resumed()
        if self.loop._debug:
            logger.debug("%r resumes reading", self.shell)

    cdef int reading_paused(self) except -1:
        raise NotImplementedError

    cdef int reading_resumed(self) except -1:
        raise NotImplementedError

    # -- flow control of writing ------------------------------------------------------------------------------------------------------

    cdef int set_limits(self, object high, object low) except -1:
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high_water_bytes = high
        self.low_water_bytes = low
        return 0

    cdef int pause_protocol(self) except -1:
        """To be called when more was queued: tells the protocol if that is above the high-water mark."""
        if self.unsent_bytes <= self.high_water_bytes or self.paused_protocol is self.protocol:
            return 0
        self.want_send_to_end()
        # A protocol that was replaced while it was paused is let go: the new one writes now.
        former = self.paused_protocol
        self.paused_protocol = self.protocol
        self.tell("resume_writing", former)
        return self.tell("pause_writing", self.protocol)

    cdef void want_send_to_end(self) noexcept:
        """Somebody waits for the end of the send in flight from now on."""
        pass

    cdef int resume_protocol(self) except -1:
        """To be called when something went out: tells the protocol that was paused, also if another has taken its place meanwhile."""
        if self.paused_protocol is None or self.unsent_bytes > self.low_water_bytes:
            return 0
        protocol, self.paused_protocol = self.paused_protocol, None
        return self.tell("resume_writing", protocol)

    cdef int tell(self, str method, object protocol) except -1:
        """Call pause_writing or resume_writing in the transport's context."""
        cdef bint entered = True
        if protocol is None:
            return 0
        try:
            PyContext_Enter(self.context)
        except RuntimeError:
            entered = False             # a callback of the protocol wrote: this is that context already
        try:
            getattr(protocol, method)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report(exc, f"protocol.{method}() failed")
        finally:
            if entered:
                PyContext_Exit(self.context)
        return 0

    cdef int count_lost_write(self, str warning) except -1:
        """A write after the connection was lost: asyncio bears a few in silence."""
        if self.writes_after_loss >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning(warning)
        self.writes_after_loss += 1
        return 0

    # -- errors and the end -----------------------------------------------------------------------------------------------------------

    cdef int report(self, object error, str message) except -1:
        self.loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self.shell, "protocol": self.protocol})
        return 0

    cdef bint is_usual(self, object error):
        """Errors that come with the network: they end the transport, and only debug mode logs them."""
        return isinstance(error, OSError)

    cdef int fatal_error(self, object error, str message) except -1:
        if not self.is_usual(error):
            self.report(error, message)
        elif self.loop._debug:
            logger.debug("%r: %s", self.shell, message, exc_info=error)
        return self.force_close(error)

    cpdef close(self):
        raise NotImplementedError

    cdef int abort(self) except -1:
        return self.force_close(None)

    cdef int force_close(self, object error) except -1:
        raise NotImplementedError

    cdef bint receiving(self) noexcept:
        return False

    cdef bint sending_now(self) noexcept:
        return False

    cdef bint idle(self) noexcept:
        """Whether the kernel has nothing of this transport's any more."""
        return not self.receiving() and not self.sending_now()

    cdef int finish(self) except -1:
        """Schedule connection_lost if nothing is in flight any more."""
        if self.lost_scheduled or not self.idle():
            return 0
        self.lost_scheduled = True
        self.loop.add_ready(self.call_connection_lost, (), self.context)
        return 0

    cdef bint is_open(self) noexcept:
        return self.file is not None

    cdef int close_file(self) except -1:
        if self.file is not None:
            self.file.close()
        return 0

    def call_connection_lost(self):
        shell = self.shell
        try:
            self.protocol.connection_lost(self.error)
        finally:
            self.close_file()
            # The ways back from the core are cut, so that transport and protocol are freed without the garbage collector.
            self.file = self.protocol = self.shell = self.error = self.paused_protocol = None
            self.let_go(shell)

    cdef int let_go(self, object shell) except -1:
        return 0


# The methods of asyncio's interface that do nothing but forward. A class has those of its own kind: what a pipe's reading end does not do
# raises asyncio's NotImplementedError.

class TransportShell:
    """What every transport does."""

    __slots__ = ()

    def close(self):
        """Send what is queued, then close. connection_lost(None) follows."""
        (<TransportCore>self._core).close()

    def is_closing(self):
        return (<TransportCore>self._core).closing

    def set_protocol(self, protocol):
        (<TransportCore>self._core).set_protocol(protocol)

    def get_protocol(self):
        return (<TransportCore>self._core).protocol

    # asyncio's own tests and debugging aids look at its transports' private names, here and below.

    @property
    def _protocol(self):
        return (<TransportCore>self._core).protocol

    def __del__(self):
        # A constructor that failed before there was a core has left the file to its caller.
        cdef TransportCore core = getattr(self, "_core", None)
        if core is not None and core.is_open():
            try:
                warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            finally:
                core.close_file()       # also where warnings are errors


class ReadableShell(TransportShell):
    """Pausing of the receive."""

    __slots__ = ()

    def is_reading(self):
        return (<TransportCore>self._core).is_reading()

    def pause_reading(self):
        """Give the protocol no more data until resume_reading(). What arrives meanwhile waits, as far as the kernel has room."""
        (<TransportCore>self._core).pause_reading()

    def resume_reading(self):
        (<TransportCore>self._core).resume_reading()


class WritableShell(TransportShell):
    """The write buffer."""

    __slots__ = ()

    def abort(self):
        """Close at once; what the kernel does not take without waiting is dropped. connection_lost(None) follows."""
        (<TransportCore>self._core).abort()

    def set_write_buffer_limits(self, high=None, low=None):
        """Water marks, in bytes, of the write buffer: pause_writing above `high`, resume_writing at `low`."""
        (<TransportCore>self._core).set_limits(high, low)
        (<TransportCore>self._core).pause_protocol()

    def get_write_buffer_limits(self):
        return ((<TransportCore>self._core).low_water_bytes, (<TransportCore>self._core).high_water_bytes)

    def get_write_buffer_size(self):
        """Bytes that were written and are not yet sent (of datagrams, from Python 3.13 on, with 8 more for each)."""
        return (<TransportCore>self._core).unsent_bytes

    @property
    def _protocol_paused(self):
        return (<TransportCore>self._core).paused_protocol is not None


class SocketShell(ReadableShell, WritableShell):
    """What is in both directions, on a socket."""

    __slots__ = ()

    def _note_addresses(self, sock):
        """What get_extra_info() tells of the socket."""
        self._extra["socket"] = trsock.TransportSocket(sock)
        try:
            self._extra["sockname"] = sock.getsockname()
        except OSError:
            self._extra["sockname"] = None
        if "peername" not in self._extra:
            try:
                self._extra["peername"] = sock.getpeername()
            except OSError:
                self._extra["peername"] = None      # there is none, or it has gone already: then the receive will say so

    @property
    def _sock(self):
        return (<TransportCore>self._core).file

    @property
    def _sock_fd(self):
        return (<TransportCore>self._core).fd

    def __repr__(self):
        cdef TransportCore core = self._core
        info = [type(self).__name__]
        if not core.is_open():
            info.append("closed")
        elif core.closing:
            info.append("closing")
        info.append(f"fd={core.fd}")
        if core.is_open():
            info.append("read=polling" if core.receiving() else "read=idle")
            info.append(f"write=<{'polling' if core.sending_now() else 'idle'}, bufsize={core.unsent_bytes}>")
        return "<" + " ".join(info) + ">"
