# What of a TLS connection runs per record. See _tls.pyx.
# cimported by: nobody else.

from libc.stdint cimport uint8_t, uint32_t

from aiouring._loop cimport Flushable, LoopCore
from aiouring._stream cimport StreamCore
from aiouring._stream_receive cimport DirectProtocol


cdef class SSLCore(DirectProtocol):
    cdef object __weakref__
    cdef readonly LoopCore loop
    cdef readonly object context                    # in which the application is called
    cdef readonly object sslobj, incoming, outgoing
    cdef object ssl                                 # what sslobj forwards to: the same methods without a Python frame
    cdef readonly object transport                  # the one below; None before connection_made() and after connection_lost()
    cdef StreamCore lower                           # its core, if it is a StreamTransport
    cdef readonly object app_protocol
    cdef public object app_transport
    cdef list backlog                               # bytes that OpenSSL has not taken yet; None: nothing
    cdef Py_ssize_t backlog_offset                  # what it has taken of the first of them
    cdef list sealed                                # records for the transport below; None: nothing
    cdef readonly Py_ssize_t backlog_bytes, sealed_bytes
    cdef readonly Py_ssize_t read_low_water_bytes, read_high_water_bytes, write_low_water_bytes, write_high_water_bytes
    cdef Py_ssize_t record_left_bytes               # of the record whose header has come; 0: between records, or within a header
    cdef Py_ssize_t tail_bytes                      # received after the end of the last whole record
    cdef uint8_t header[5]
    cdef uint8_t header_bytes
    cdef public int state
    cdef public uint32_t writes_after_loss
    cdef public bint closed                         # what the application's transport answers to is_closing()
    cdef public bint eof_from_peer, unwrapped, handshake_is_over, app_connection_made, app_eof_received
    cdef readonly bint reading_paused, app_writing_paused, transport_writing_paused
    cdef bint transport_reading_paused, app_buffered
    cdef bint plaintext_waits                       # OpenSSL holds the rest of a record that it has decrypted
    cdef bint records_unclear                       # what comes is not TLS, as far as record headers tell
    cdef bint flush_scheduled

    cdef void follow_records(self, const uint8_t *data, Py_ssize_t length) noexcept
    cdef int take(self, const char *data, Py_ssize_t length) except -1
    cdef Py_ssize_t room_bytes(self) noexcept
    cdef int take_in(self, const char *data, Py_ssize_t length) except -1
    cdef Py_ssize_t readable_bytes(self) except -1
    cdef object read_record(self, Py_ssize_t wanted)
    cdef int read_chunks(self, const char *more, Py_ssize_t more_bytes) except -1
    cdef int read_into_buffer(self) except -1
    cdef int read_with(self, const char *more, Py_ssize_t more_bytes) except -1
    cdef int control_reading(self) except -1
    cdef int write(self, object data) except -1
    cdef int encrypt(self) except -1
    cdef int join_small(self) except -1
    cdef int pass_on(self) except -1
    cdef int control_app_writing(self) except -1
    cdef int seal(self) except -1
    cdef int send_sealed(self) except -1
    cdef int flush_writes(self) except -1


# One turn's writes of one connection: encrypted at the end of the turn.
cdef class WriteFlush(Flushable):
    cdef SSLCore core
