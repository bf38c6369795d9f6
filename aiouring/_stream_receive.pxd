# The receiving half of a stream transport. See _stream_receive.pyx.
# cimported by: _stream, whose core inherits from it, and the protocols that take data natively.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from aiouring._frames cimport Framer
from aiouring._respond cimport Answers
from aiouring._ring cimport BufferRing
from aiouring._stream_socket cimport StreamSocket
from aiouring._transport cimport flag
from aiouring._watch cimport Watch


# A protocol of ours that takes what was received without a Python call. It has the methods of an asyncio.Protocol as well.
cdef class DirectProtocol:
    # The bytes are the transport's and gone after this call. Runs outside the transport's context.
    cdef int receive(self, const char *data, Py_ssize_t length) except -1
    # The same where the bytes are an object already, which may be kept.
    cdef int receive_bytes(self, bytes data) except -1


cdef class StreamReceiver(StreamSocket):
    cdef uint64_t recv_request                  # 0: none in flight
    cdef BufferRing recv_buffers                # what recv_request was armed with
    cdef bytes bulk_target                      # where a large receive goes
    cdef list backlog                           # what came after pause_reading: bytes, then perhaps None (EOF) or an exception
    cdef Framer framer                          # cuts what comes, None: the protocol gets it as it comes
    cdef Answers answers                        # to requests that the protocol need not see, else None
    cdef Watch watch                            # of connections that a hook's program looks into, else None
    cdef uint32_t size_votes                    # receives in a row that speak for the other way of receiving
    cdef uint8_t taker                          # how the protocol wants its data: PLAIN, BUFFERED, ASYNCIO_READER, DIRECT, FRAMED
    cdef flag multishot                         # recv_request is the one for small data
    cdef flag bulk                              # large receives, made when there is something to receive
    cdef flag readable, bulk_queued, bulk_waits, is_internet
    cdef flag of_python                         # of a connection with answers: the protocol has seen or written something, so their order is its own
    cdef flag reading, eof_received, recv_cancelled, backlog_scheduled
    cdef flag end_scheduled                     # deliver_end() will be called
    cdef flag taken                             # somebody else receives from the socket now, for good
    cdef flag lost                              # no more data in either direction: connection_lost follows the last CQE

    # What the sending half does when the receive has ended.
    cdef int finish_now(self) except -1

    @staticmethod
    cdef int recv_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cdef bint wants_data(self) noexcept
    cdef int queue_receive(self) except -1
    cdef int arm_recv(self) except -1
    cdef int received_nothing(self, int32_t res) except -1
    cdef int received(self, uint32_t cqe_flags, int32_t length) except -1
    cdef int note_size(self, int32_t length, uint32_t cqe_flags) except -1
    cdef int wait_readable(self) except -1
    cdef int became_readable(self, int32_t events) except -1
    cdef int arm_bulk(self, bytes target, uint32_t msg_flags) except -1
    cdef int bulk_received(self, int32_t length, uint32_t cqe_flags) except -1
    cdef int keep(self, object item) except -1
    cdef int hand_over(self, bytes data) except -1
    cdef int give(self, const char *data, Py_ssize_t length) except -1
    cdef int feed_reader(self, const char *data, Py_ssize_t length) except -1
    cdef int fill_buffers(self, const char *data, Py_ssize_t length) except -1
    cdef int specialise(self, object receiving, object protocol) except -1
    cdef int check_frame_protocol(self, object protocol) except -1
    cdef bint watch_next(self) except -1
    cdef bint answered(self, const char *data, Py_ssize_t length) except -1
    cdef int answer(self, int which, Py_ssize_t begin) except -1        # the sending half does
    cdef void give_to_python(self) noexcept
    cdef int take_rest(self) except -1
    cdef int settle_frames(self) except -1
    cdef int hand_over_frames(self) except -1
    cdef int call_with(self, str method, object argument) except -1
    cdef int protocol_raised(self, object exc, str method) except -1
    cdef int schedule_end(self, object error) except -1
    cdef int schedule_backlog(self) except -1
    cdef int end_of_stream(self) except -1
    cdef int recv_failed(self, object error) except -1
