# A file as a stream: its position, its buffer, and the calls that take turns on it. See _filecore.pyx.
# cimported by: _file and the text rooms.

from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t

from aiouring._fileop cimport Descriptor, FileOperation
from aiouring.uapi cimport io_uring_sqe


cdef enum:
    # What a step of a call returns besides a count of bytes, which is never negative.
    MUST_WAIT = -2                      # its request was begun; the same step comes again with the result
    DONE = 0

cdef enum position_kind:
    TRACKED                             # ours alone: requests say where
    KERNEL                              # the open file's, which others may share: requests use and move it
    STREAM                              # it has none


cdef class FileCore(Descriptor):
    cdef object name                    # as open() was given it
    cdef bint readable, writable, appending, created
    cdef bint owns                      # the descriptor is closed with the file
    cdef bint closed

    # Unbuffered.
    cdef position_kind position
    cdef int64_t raw_pos
    # Read ahead, or put back: bytes of the file from raw_pos on, if ahead_at is where raw_pos is.
    cdef char *ahead
    cdef Py_ssize_t ahead_room, ahead_begin, ahead_end, ahead_next
    cdef int64_t ahead_pos              # of ahead_begin
    cdef bint ahead_ended               # the file ended at ahead_end when that was read
    cdef bint ahead_is_old              # the file was changed, or the stream moved, since the reading ahead was begun
    cdef int64_t expected_pos           # where a sequential reader reads next

    # The buffer, with the built-in's rules for what is in it: from read_pos on to be read, from write_pos to write_end to be written.
    cdef char *buffer
    cdef Py_ssize_t buffer_bytes        # 0: there is none
    cdef Py_ssize_t at                  # where the stream stands in it
    cdef Py_ssize_t raw_at              # where raw_pos is in it, -1: nowhere
    cdef Py_ssize_t read_end            # -1: nothing was read into it
    cdef Py_ssize_t write_pos, write_end    # write_end -1: nothing waits in it to be written

    # Above the buffer: what a text file wrote, not joined yet. None: nothing.
    cdef list pending
    cdef Py_ssize_t pending_bytes

    # Calls in the order in which they were begun.
    cdef FileCall active
    cdef object queue                   # deque
    cdef Py_ssize_t gone                # calls in it that were given up
    cdef FileCall spare

    cdef int setup(self, object name, str flags, int64_t pos, bint own_position, Py_ssize_t buffer_bytes) except -1
    cdef int go_on(self) except -1
    cdef int forget_gone(self) except -1
    cdef int check_not_closed(self) except -1
    cdef int unsupported(self, str what) except -1

    # Steps on the descriptor.
    cdef Py_ssize_t raw_read(self, FileCall call, char *target, Py_ssize_t size) except -1
    cdef Py_ssize_t raw_write(self, FileCall call, const char *data, Py_ssize_t size, bint from_buffer) except -1
    cdef int64_t raw_seek(self, FileCall call, int64_t offset, int whence) except -1
    cdef int64_t raw_tell(self) except -1
    cdef int raw_truncate(self, FileCall call, int64_t size) except -1
    cdef int raw_sync(self, FileCall call, uint32_t flags) except -1
    cdef Py_ssize_t from_ahead(self, char *target, Py_ssize_t size) noexcept
    cdef int drop_ahead(self) noexcept
    cdef int make_ahead(self, Py_ssize_t size) except -1
    cdef int put_back(self, const char *data, Py_ssize_t size) except -1
    cdef int moved(self, FileCall call, Py_ssize_t count) except -1
    cdef int share_position(self) except -1

    # Steps on the buffer.
    cdef Py_ssize_t readahead(self) noexcept
    cdef Py_ssize_t raw_offset(self) noexcept
    cdef int64_t logical_pos(self) noexcept
    cdef int forget_read(self) noexcept
    cdef int forget_write(self) noexcept
    cdef int move_to(self, Py_ssize_t at) noexcept
    cdef Py_ssize_t fill(self, FileCall call) except -1
    cdef int flush(self, FileCall call) except -1
    cdef int flush_and_rewind(self, FileCall call) except -1
    cdef int64_t seek(self, FileCall call, int64_t target, int whence) except -1
    cdef int return_to(self, int64_t pos) except -1
    cdef Py_ssize_t write_the_rest(self, bint unsure) noexcept
    cdef Py_ssize_t write_plainly(self, const char *data, Py_ssize_t left) noexcept


cdef enum request_kind:
    NO_REQUEST
    READ_DIRECT                         # into the call's memory
    READ_AHEAD                          # into the file's
    WRITE_BUFFER                        # the file's buffer
    WRITE_DIRECT                        # the call's data
    OTHER


cdef class FileCall(FileOperation):
    cdef FileCore core
    cdef request_kind asked             # what is or was in flight
    cdef bint has_result, polling
    cdef bint explicit                  # the request said where
    cdef bint at_end                    # the file ended where this call has read to
    cdef bint has_begun                 # attempt() has made its checks
    cdef bint keeps_turn
    cdef bint queued
    cdef int phase                      # how far attempt() is
    cdef int32_t res
    cdef int64_t wide_result            # the executor's, of an lseek()
    cdef Py_ssize_t prefix              # bytes that came from what was read ahead, before those of the request in flight
    cdef char *direct_target
    cdef Py_ssize_t direct_size
    cdef int64_t begun_pos              # where the stream stood when the call's turn came

    # What each kind provides.
    cdef int attempt(self) except -1    # DONE: finish() was called. Called again after each MUST_WAIT.
    cdef bint reads(self) noexcept      # takes from the stream
    cdef int undo(self) except -1       # the call was cancelled: what it has taken from the stream goes back
    cdef int undo_result(self, object result) except -1
    cdef FileCall successor(self)       # of one that was given up before its turn came: what happens all the same, or None

    cdef bint stays_queued(self) noexcept
    cdef bint may_go_back(self) noexcept
    cdef int renew(self) noexcept       # for one that serves again
    cdef int resume(self) except -1
    cdef int result_of_request(self) except? -1
    cdef io_uring_sqe *stream_sqe(self, request_kind kind) except NULL

    @staticmethod
    cdef int stream_complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1
    cdef int begin_read(self, request_kind kind) except -1
    cdef int account(self) except -1
    cdef int wait_for_room(self) except -1
    cdef int end_turn(self) except -1
