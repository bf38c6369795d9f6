# The native state of one stream socket transport. See _stream.pyx.
# cimported by: rooms that look into a transport (sendfile, hooks).

from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.uio cimport iovec

from aiouring._loop cimport Flushable, LoopCore
from aiouring._ring cimport BufferRing

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        iovec *msg_iov
        size_t msg_iovlen


cdef class StreamCore(Flushable):
    cdef LoopCore loop
    cdef object shell, sock, protocol, context, server, error, empty_waiter
    cdef object paused_protocol                 # whom pause_writing() was called on, None: nobody
    cdef int fd
    cdef uint64_t recv_request, send_request    # 0: none in flight
    cdef BufferRing recv_buffers                # what recv_request was armed with
    cdef uint32_t recv_tag                      # what recv_request is: TAG_RECV, TAG_READABLE or TAG_BULK
    cdef bint bulk                              # large receives, made when there is something to receive
    cdef bint readable, bulk_queued, is_internet
    cdef uint32_t size_votes                    # receives in a row that speak for the other way
    cdef object bulk_target                     # where a large receive goes: a bytes object, or a memoryview of the protocol's buffer
    cdef bint buffered_protocol, reading, paused, eof_received, eof_written, closing, lost, lost_scheduled
    cdef bint backlog_scheduled, recv_cancelled
    cdef uint32_t writes_after_loss
    cdef list backlog                           # what came after pause_reading: bytes, then perhaps None (EOF) or an exception
    cdef list queue                             # bytes to send after `sending`
    cdef list sending                           # bytes of the send in flight; kept until its last CQE
    cdef Py_ssize_t sending_index, sending_offset
    cdef size_t unsent_bytes, high_water_bytes, low_water_bytes
    cdef iovec *iovecs
    cdef msghdr header

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cpdef close(self)
    cdef bint wants_data(self) noexcept
    cdef int queue_requests(self) except -1
    cdef int arm_recv(self) except -1
    cdef int arm_send(self, uint32_t msg_flags) except -1
    cdef int received(self, uint32_t cqe_flags, int32_t length) except -1
    cdef int note_size(self, int32_t length, uint32_t cqe_flags) except -1
    cdef int wait_readable(self) except -1
    cdef int bulk_received(self, int32_t res, uint32_t cqe_flags) except -1
    cdef object protocol_buffer(self)
    cdef int tell_buffer_updated(self, Py_ssize_t length) except -1
    cdef int start_bulk(self) except -1
    cdef int hand_over(self, bytes data) except -1
    cdef int fill(self, const char *data, Py_ssize_t length) except -1
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
    cdef int tell(self, str method, object protocol) except -1
    cdef int resume_protocol(self) except -1
    cdef int fatal_error(self, object error, str message) except -1
    cdef int force_close(self, object error) except -1
    cdef int drop_queue(self) except -1
    cdef int lose(self, object error) except -1
    cdef int finish(self) except -1
    cdef int finish_now(self) except -1
