# The native state of one stream socket transport. See _stream.pyx.
# cimported by: rooms that look into a transport (sendfile, hooks).

from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.uio cimport iovec

from aiouring._ring cimport BufferRing
from aiouring._transport cimport TransportCore

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        iovec *msg_iov
        size_t msg_iovlen


cdef class StreamCore(TransportCore):
    cdef object server, empty_waiter
    cdef uint64_t recv_request, send_request    # 0: none in flight
    cdef BufferRing recv_buffers                # what recv_request was armed with
    cdef bint buffered_protocol, reading, eof_received, eof_written
    cdef bint lost                              # no more data in either direction: connection_lost follows the last CQE
    cdef bint backlog_scheduled, recv_cancelled
    cdef list backlog                           # what came after pause_reading: bytes, then perhaps None (EOF) or an exception
    cdef list queue                             # bytes to send after `sending`
    cdef list sending                           # bytes of the send in flight; kept until its last CQE
    cdef Py_ssize_t sending_index, sending_offset
    cdef iovec *iovecs
    cdef msghdr header

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cdef bint wants_data(self) noexcept
    cdef int queue_requests(self) except -1
    cdef int arm_recv(self) except -1
    cdef int arm_send(self, uint32_t msg_flags) except -1
    cdef int received(self, const char *data, Py_ssize_t length) except -1
    cdef int hand_over(self, const char *data, Py_ssize_t length) except -1
    cdef int fill_buffers(self, const char *data, Py_ssize_t length) except -1
    cdef int schedule_end(self, object error) except -1
    cdef int schedule_backlog(self) except -1
    cdef int end_of_stream(self) except -1
    cdef int recv_failed(self, object error) except -1
    cdef int sent(self, Py_ssize_t count) except -1
    cdef int all_sent(self) except -1
    cdef int check_write(self) except -1
    cdef int enqueue(self, object data) except -1
    cdef int after_enqueue(self) except -1
    cdef int drop_queue(self) except -1
    cdef int lose(self, object error) except -1
    cdef int finish_now(self) except -1
