# cython: language_level=3, boundscheck=False, wraparound=False
"""Marks: a byte for each page of RAM, not 0 if the page is meant.

A migration combines and counts them while the guest stands still, for 512 MiB 131,072 at a time.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #pragma GCC optimize("O3")  /* which turns these loops into vector instructions */
    """


cdef bytearray _room(const uint8_t[::1] one, const uint8_t[::1] other):
    if one.shape[0] != other.shape[0]:
        raise ValueError(f"marks of {one.shape[0]} pages and of {other.shape[0]}")
    return PyByteArray_FromStringAndSize(NULL, one.shape[0])


def either(const uint8_t[::1] one not None, const uint8_t[::1] other not None):
    cdef bytearray joined = _room(one, other)
    cdef uint8_t *out = <uint8_t *>PyByteArray_AS_STRING(joined)
    cdef Py_ssize_t n
    for n in range(one.shape[0]):
        out[n] = one[n] | other[n]
    return joined


def both(const uint8_t[::1] one not None, const uint8_t[::1] other not None):
    cdef bytearray common = _room(one, other)
    cdef uint8_t *out = <uint8_t *>PyByteArray_AS_STRING(common)
    cdef Py_ssize_t n
    for n in range(one.shape[0]):
        out[n] = (one[n] != 0) & (other[n] != 0)
    return common


def without(const uint8_t[::1] one not None, const uint8_t[::1] other not None):
    cdef bytearray left = _room(one, other)
    cdef uint8_t *out = <uint8_t *>PyByteArray_AS_STRING(left)
    cdef Py_ssize_t n
    for n in range(one.shape[0]):
        out[n] = (one[n] != 0) & (other[n] == 0)
    return left


def how_many(const uint8_t[::1] marks not None):
    cdef Py_ssize_t n, found = 0
    for n in range(marks.shape[0]):
        found += marks[n] != 0
    return found
