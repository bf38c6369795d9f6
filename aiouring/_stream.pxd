# The native state of one stream socket transport. See _stream.pyx.
# cimported by: rooms that look into a transport (sendfile, hooks).

from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.uio cimport iovec

from aiouring._loop cimport LoopCore
from aiouring._stream_receive cimport StreamReceiver
from aiouring.uapi cimport io_uring_sqe

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        iovec *msg_iov
        size_t msg_iovlen

cdef struct send_vector:                        # what a SENDMSG points to; its iovecs follow
    msghdr header


cdef class StreamCore(StreamReceiver):
    cdef object server, empty_waiter
    cdef uint64_t send_request                  # 0: none in flight
    cdef object queue                           # to send after `sending`: a bytes object, a list of them, or None
    cdef object sending                         # the same, of the send in flight; kept until its last CQE
    cdef Py_ssize_t sending_index, sending_offset
    cdef send_vector *vector                    # of the SENDMSG in flight, else NULL

    @staticmethod
    cdef int send_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cpdef close(self)
    cdef int begin(self, object extra, object server, object waiter) except -1
    cdef int write(self, object data) except -1
    cdef int writelines(self, object list_of_data) except -1
    cdef int refuse_write(self) except -1
    cdef int enqueue(self, object data) except -1
    cdef int after_enqueue(self) except -1
    cdef int arm_send(self, uint32_t msg_flags) except -1
    cdef bint may_send(self) except -1
    cdef int armed(self, io_uring_sqe *sqe, Py_ssize_t length) except -1
    cdef int arm_sendmsg(self, uint32_t msg_flags) except -1
    cdef void free_vector(self) noexcept
    cdef int note_sent(self, Py_ssize_t count) except -1
    cdef int all_sent(self) except -1
    cdef int drop_queue(self) except -1
    cdef int lose(self, object error) except -1

# A transport of a connected, non-blocking descriptor, which is the transport's from here on, whatever raises.
# `receiving`: a framing or _respond.Answers.
cdef object new_transport(LoopCore loop, int fd, int family, int kind, int proto, object protocol, object server, object waiter,
                          object receiving=*)
