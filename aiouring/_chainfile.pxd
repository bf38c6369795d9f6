# A file of a chain, and its place in the ring's table. See _chainfile.pyx.
# cimported by: _chainlinks, _chain.

from aiouring._fileop cimport Descriptor
from aiouring._loop cimport LoopCore
from aiouring._operation cimport Operation
from aiouring._ring cimport Ring
from aiouring._sockop cimport SocketOperation


# A file, a socket or a folder of a chain: what its links use instead of a number that may be another file's when they come to run.
cdef class ChainFile:
    cdef object named           # as it was given: a number, or an object with fileno()
    cdef Descriptor descriptor  # of an open file of ours
    cdef SocketHold hold        # of a socket
    cdef bint direct            # an open link brings it
    cdef bint by_number         # a request of it cannot go by the ring's table
    cdef bint opened, closed    # the direct descriptor is, as far as completions say
    cdef bint entered, duplicate
    cdef bint to_place          # put_files() shall put it into the table
    cdef int number             # when it was taken
    cdef int fd                 # what requests say
    cdef int slot               # in the ring's table, -1: none

    cdef int take(self, LoopCore loop, Operation chain) except -1
    cdef int make_duplicate(self) except -1
    cdef bint can_be_taken_again(self) except -1
    cdef void give_back(self, LoopCore loop) noexcept


# Stands in a socket's list of calls that are in flight, so that its close ends the chain.
cdef class SocketHold(SocketOperation):
    cdef object chain           # a weak reference: what a closed loop leaves behind goes, whoever has the socket; None: none
    cdef list taken             # of what cancelled receives had left: (link, item)
    cdef bint gone              # it was closed while the chain was in flight

    cdef Operation user(self)
    cdef int begin(self, LoopCore loop, Operation chain) except -1
    cdef void end(self) noexcept


# Those of them that want a place in the ring's table get it, or a duplicate.
cdef int put_files(list files, Ring ring) except -1
# They have none any more. `ring`: to which the chain was submitted.
cdef void take_files_out(list files, LoopCore loop, Ring ring) noexcept
