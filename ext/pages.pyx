# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Page serialization: what is zero, checksums, bulk encoding and decoding. See pages.pyi.

``hypervisor/state/pages.py`` is the readable twin of this file and the oracle of its tests: both
give the same bytes, the same numbers and the same error messages. This one reads memory at the
host's speed and lets other Python threads run meanwhile.

The one rule here: a number that came from outside is compared with what the buffers hold *before*
it is used, and ``decode`` writes nothing until the whole chunk has passed.
"""

from cpython.array cimport array, clone
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from hypervisor.errors import StateError

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* A load of eight bytes, least significant first on any host. Compilers make it one MOV. */
    static inline uint64_t load64(const uint8_t *p)
    {
        return (uint64_t)p[0]       | (uint64_t)p[1] << 8  | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
               (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #include <nmmintrin.h>

    static int crc_instruction(void) { return __builtin_cpu_supports("sse4.2") != 0; }

    /* The CRC32 instruction (SDM 2A) takes three cycles but a new one can start every cycle, so
       three lanes of equal length run side by side and are joined afterwards. */
    __attribute__((target("sse4.2"))) static void
    crc_three_lanes(uint32_t crc[3], const uint8_t *p, size_t lane)
    {
        uint64_t a = crc[0], b = 0, c = 0;
        for (const uint8_t *end = p + lane; p < end; p += 8) {
            a = _mm_crc32_u64(a, load64(p));
            b = _mm_crc32_u64(b, load64(p + lane));
            c = _mm_crc32_u64(c, load64(p + 2 * lane));
        }
        crc[0] = (uint32_t)a, crc[1] = (uint32_t)b, crc[2] = (uint32_t)c;
    }

    __attribute__((target("sse4.2"))) static uint32_t
    crc_one_lane(uint32_t crc, const uint8_t *p, size_t length)
    {
        uint64_t a = crc;
        for (; length >= 8; p += 8, length -= 8)
            a = _mm_crc32_u64(a, load64(p));
        for (; length; p++, length--)
            a = _mm_crc32_u8((uint32_t)a, *p);
        return (uint32_t)a;
    }
    #else
    static int crc_instruction(void) { return 0; }
    static void crc_three_lanes(uint32_t crc[3], const uint8_t *p, size_t lane) {}
    static uint32_t crc_one_lane(uint32_t crc, const uint8_t *p, size_t length) { return crc; }
    #endif
    """
    uint64_t load64(const uint8_t *p) nogil
    int crc_instruction() nogil
    void crc_three_lanes(uint32_t *crc, const uint8_t *p, size_t lane) nogil
    uint32_t crc_one_lane(uint32_t crc, const uint8_t *p, size_t length) nogil


cdef enum:
    PAGE = 4096
    LANE = 1024        # bytes per lane of the hardware CRC
    HEAD = 8           # of a chunk: count, bytes of data
    ENTRY = 8          # of its directory: page, encoding, length
    MODE_ZERO = 0
    MODE_RAW = 1
    MODE_DELTA = 2
    MODE_COMPRESSED = 3

PAGE_SIZE = PAGE
ZERO = MODE_ZERO
RAW = MODE_RAW
DELTA = MODE_DELTA
COMPRESSED = MODE_COMPRESSED
IMPLEMENTATION = "compiled"

# ---------------------------------------------------------------------------------------- CRC-32C

cdef uint32_t _table[8][256]       # slicing by eight (Kounavis and Berry, 2005)
cdef uint32_t _skip[4][256]        # a CRC moved over LANE zero bytes, by its four bytes
cdef bint _hardware = crc_instruction()


cdef uint32_t _crc_software(uint32_t crc, const uint8_t *p, size_t length) noexcept nogil:
    cdef uint64_t word
    while length >= 8:
        word = load64(p) ^ crc
        crc = (_table[7][word & 255] ^ _table[6][(word >> 8) & 255]
               ^ _table[5][(word >> 16) & 255] ^ _table[4][(word >> 24) & 255]
               ^ _table[3][(word >> 32) & 255] ^ _table[2][(word >> 40) & 255]
               ^ _table[1][(word >> 48) & 255] ^ _table[0][word >> 56])
        p += 8
        length -= 8
    while length:
        crc = _table[0][(crc ^ p[0]) & 255] ^ (crc >> 8)
        p += 1
        length -= 1
    return crc


cdef inline uint32_t _skip_lane(uint32_t crc) noexcept nogil:
    return (_skip[0][crc & 255] ^ _skip[1][(crc >> 8) & 255]
            ^ _skip[2][(crc >> 16) & 255] ^ _skip[3][crc >> 24])


cdef uint32_t _crc_hardware(uint32_t crc, const uint8_t *p, size_t length) noexcept nogil:
    cdef uint32_t lanes[3]
    while length >= 3 * LANE:
        lanes[0] = crc
        crc_three_lanes(lanes, p, LANE)
        crc = _skip_lane(_skip_lane(lanes[0]) ^ lanes[1]) ^ lanes[2]
        p += 3 * LANE
        length -= 3 * LANE
    return crc_one_lane(crc, p, length)


cdef void _fill_tables() noexcept:
    cdef uint32_t crc, bit, value
    cdef uint32_t moved[32]
    cdef int i, k
    for i in range(256):
        crc = i
        for k in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        _table[0][i] = crc
    for k in range(1, 8):
        for i in range(256):
            _table[k][i] = (_table[k - 1][i] >> 8) ^ _table[0][_table[k - 1][i] & 255]
    # A CRC is linear: what LANE zero bytes make of a value is the sum of what they make of its bits.
    for k in range(32):
        crc = (<uint32_t>1) << k
        for i in range(LANE):
            crc = _table[0][crc & 255] ^ (crc >> 8)
        moved[k] = crc
    for k in range(4):
        for i in range(256):
            value = 0
            for bit in range(8):
                if (i >> bit) & 1:
                    value ^= moved[8 * k + bit]
            _skip[k][i] = value

_fill_tables()


def crc32c(const uint8_t[::1] data not None, uint32_t crc=0, *, bint hardware=True):
    cdef uint32_t value = ~crc
    cdef size_t length = data.shape[0]
    if length:
        with nogil:
            if hardware and _hardware:
                value = _crc_hardware(value, &data[0], length)
            else:
                value = _crc_software(value, &data[0], length)
    return <uint32_t>~value


def has_crc_instruction():
    return bool(_hardware)


# ------------------------------------------------------------------------------------------ XXH64

cdef uint64_t P1 = 0x9E3779B185EBCA87
cdef uint64_t P2 = 0xC2B2AE3D27D4EB4F
cdef uint64_t P3 = 0x165667B19E3779F9
cdef uint64_t P4 = 0x85EBCA77C2B2AE63


cdef inline uint64_t _rotate(uint64_t x, int r) noexcept nogil:
    return (x << r) | (x >> (64 - r))


cdef inline uint64_t _round(uint64_t lane, uint64_t value) noexcept nogil:
    return _rotate(lane + value * P2, 31) * P1


cdef array _NO_HASHES = array("Q")


cdef uint64_t _hash_page(const uint8_t *p) noexcept nogil:
    # A page is a multiple of 32 bytes, so XXH64's handling of a shorter tail is not needed.
    cdef uint64_t a = P1 + P2, b = P2, c = 0, d = <uint64_t>0 - P1, h
    cdef const uint8_t *end = p + PAGE
    while p < end:
        a = _round(a, load64(p))
        b = _round(b, load64(p + 8))
        c = _round(c, load64(p + 16))
        d = _round(d, load64(p + 24))
        p += 32
    h = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
    h = (h ^ _round(0, a)) * P1 + P4
    h = (h ^ _round(0, b)) * P1 + P4
    h = (h ^ _round(0, c)) * P1 + P4
    h = (h ^ _round(0, d)) * P1 + P4
    h += PAGE
    h = (h ^ (h >> 33)) * P2
    h = (h ^ (h >> 29)) * P3
    return h ^ (h >> 32)


def page_hashes(const uint8_t[::1] ram not None, const uint32_t[::1] numbers not None):
    cdef Py_ssize_t count = numbers.shape[0], i
    cdef array hashes = clone(_NO_HASHES, count, zero=False)
    cdef uint64_t *out = <uint64_t *>hashes.data.as_voidptr
    _check_numbers(ram.shape[0], numbers)
    with nogil:
        for i in range(count):
            out[i] = _hash_page(&ram[<Py_ssize_t>numbers[i] * PAGE])
    return hashes


# ----------------------------------------------------------------------------------------- pages

cdef inline bint _is_zero(const uint8_t *p) noexcept nogil:
    """Most pages differ from zero in their first bytes, so look there before the whole."""
    cdef uint64_t word
    cdef uint64_t a, b, c, d
    cdef const uint8_t *end = p + PAGE
    memcpy(&word, p, 8)
    if word:
        return False
    while p < end:
        memcpy(&a, p, 8)
        memcpy(&b, p + 8, 8)
        memcpy(&c, p + 16, 8)
        memcpy(&d, p + 24, 8)
        if a | b | c | d:
            return False
        p += 32
    return True


cdef int _check_numbers(Py_ssize_t ram_length, const uint32_t[::1] numbers) except -1:
    cdef uint64_t pages = ram_length // PAGE
    cdef int64_t previous = -1
    cdef Py_ssize_t i
    for i in range(numbers.shape[0]):
        if numbers[i] >= pages:
            raise ValueError(f"page {numbers[i]} is outside the {pages} pages of RAM")
        if <int64_t>numbers[i] <= previous:
            raise ValueError(f"page {numbers[i]} does not come after page {previous}")
        previous = numbers[i]
    return 0

def classify(const uint8_t[::1] ram not None):
    cdef Py_ssize_t length = ram.shape[0], pages = length // PAGE, i
    if length % PAGE:
        raise ValueError(f"{length} bytes are not a whole number of pages")
    bitmap = bytearray((pages + 7) // 8)
    cdef uint8_t[::1] out = bitmap
    with nogil:
        for i in range(pages):
            if not _is_zero(&ram[i * PAGE]):
                out[i >> 3] |= <uint8_t>(1 << (i & 7))
    return bitmap


# ----------------------------------------------------------------------------------------- chunks

cdef inline void _put32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = value & 255
    p[1] = (value >> 8) & 255
    p[2] = (value >> 16) & 255
    p[3] = value >> 24


cdef inline uint32_t _get32(const uint8_t *p) noexcept nogil:
    return p[0] | (<uint32_t>p[1] << 8) | (<uint32_t>p[2] << 16) | (<uint32_t>p[3] << 24)


cdef inline uint32_t _get16(const uint8_t *p) noexcept nogil:
    return p[0] | (<uint32_t>p[1] << 8)


def bound(Py_ssize_t count):
    return HEAD + count * (ENTRY + PAGE)


def encode(const uint8_t[::1] ram not None, const uint32_t[::1] numbers not None, uint8_t[::1] out not None):
    cdef Py_ssize_t count = numbers.shape[0], i
    cdef size_t used = HEAD + count * ENTRY
    cdef uint8_t *entry
    cdef const uint8_t *page
    if out.shape[0] < HEAD + count * (ENTRY + PAGE):
        raise ValueError(f"a chunk of {count} pages needs room for {bound(count)} bytes")
    _check_numbers(ram.shape[0], numbers)
    with nogil:
        entry = &out[HEAD]
        for i in range(count):
            page = &ram[<Py_ssize_t>numbers[i] * PAGE]
            _put32(entry, numbers[i])
            if _is_zero(page):
                _put32(entry + 4, MODE_ZERO)
            else:
                _put32(entry + 4, MODE_RAW | (PAGE << 16))
                memcpy(&out[used], page, PAGE)
                used += PAGE
            entry += ENTRY
        _put32(&out[0], <uint32_t>count)
        _put32(&out[4], <uint32_t>(used - HEAD - count * ENTRY))
    return used


cdef enum Fault:
    SOUND
    SHORT_HEAD
    SHORT_DIRECTORY
    OUTSIDE
    ORDER
    ENCODING
    LENGTH
    DATA

cdef struct Summary:
    Fault fault
    uint32_t index       # of the entry at fault
    uint32_t zero
    uint32_t raw


cdef Summary _inspect(const uint8_t *chunk, size_t length, size_t pages) noexcept nogil:
    """Look at everything a chunk says, and at nothing beyond its ``length`` bytes."""
    cdef Summary found
    cdef size_t count, data = 0
    cdef uint32_t number, mode, size, i
    cdef int64_t previous = -1
    cdef const uint8_t *entry = chunk + HEAD
    memset(&found, 0, sizeof(found))
    found.fault = SHORT_HEAD
    if length < HEAD:
        return found
    found.fault = SHORT_DIRECTORY
    count = _get32(chunk)
    if count > (length - HEAD) // ENTRY:
        return found
    for i in range(<uint32_t>count):
        found.index = i
        number = _get32(entry)
        mode = _get16(entry + 4)
        size = _get16(entry + 6)
        if number >= pages:
            found.fault = OUTSIDE
            return found
        if <int64_t>number <= previous:
            found.fault = ORDER
            return found
        if mode != MODE_ZERO and mode != MODE_RAW:
            found.fault = ENCODING
            return found
        if size != (0 if mode == MODE_ZERO else PAGE):
            found.fault = LENGTH
            return found
        if mode == MODE_ZERO:
            found.zero += 1
        else:
            found.raw += 1
        data += size
        previous = number
        entry += ENTRY
    found.fault = SOUND
    if data != _get32(chunk + 4) or HEAD + count * ENTRY + data != length:
        found.fault = DATA
    return found


cdef object _refusal(Summary found, const uint8_t *chunk, size_t pages):
    cdef const uint8_t *entry = chunk + HEAD + <size_t>found.index * ENTRY
    if found.fault == SHORT_HEAD:
        return StateError("RAM chunk: shorter than its own header")
    if found.fault == SHORT_DIRECTORY:
        return StateError(f"RAM chunk: {_get32(chunk)} pages are announced, the chunk is too short for them")
    if found.fault == DATA:
        return StateError("RAM chunk: its length does not fit its pages")
    number = _get32(entry)
    if found.fault == OUTSIDE:
        return StateError(f"RAM chunk: page {number} is outside the {pages} pages of RAM")
    if found.fault == ORDER:
        return StateError(f"RAM chunk: page {number} is out of order")
    mode = _get16(entry + 4)
    if found.fault == ENCODING:
        name = {MODE_DELTA: "delta", MODE_COMPRESSED: "compressed"}.get(mode, mode)
        return StateError(f"RAM chunk: page {number} has encoding {name}, which this version does not read")
    return StateError(f"RAM chunk: page {number} has {_get16(entry + 6)} bytes")


cdef tuple _answer(Summary found, const uint8_t *chunk):
    cdef size_t count = _get32(chunk)
    if count == 0:
        return 0, 0, -1, -1
    return found.zero, found.raw, _get32(chunk + HEAD), _get32(chunk + HEAD + (count - 1) * ENTRY)


def inspect(const uint8_t[::1] chunk not None, Py_ssize_t pages):
    cdef const uint8_t *start = &chunk[0] if chunk.shape[0] else NULL
    cdef Summary found
    if pages < 0:
        raise ValueError("a negative number of pages")
    with nogil:
        found = _inspect(start, chunk.shape[0], pages)
    if found.fault != SOUND:
        raise _refusal(found, start, pages)
    return _answer(found, start)


def decode(const uint8_t[::1] chunk not None, uint8_t[::1] ram not None, uint8_t[::1] seen=None):
    cdef const uint8_t *start = &chunk[0] if chunk.shape[0] else NULL
    cdef const uint8_t *entry
    cdef const uint8_t *data
    cdef size_t pages = ram.shape[0] // PAGE
    cdef size_t count, i, number
    cdef uint8_t *page
    cdef uint8_t *mark = NULL
    cdef Summary found
    if seen is not None:
        if <size_t>seen.shape[0] != pages:
            raise ValueError(f"{seen.shape[0]} marks for {pages} pages")
        if pages:
            mark = &seen[0]
    with nogil:
        found = _inspect(start, chunk.shape[0], pages)
        if found.fault == SOUND:
            count = _get32(start)
            entry = start + HEAD
            data = entry + count * ENTRY
            for i in range(count):
                number = _get32(entry)
                page = &ram[0] + number * PAGE
                if _get16(entry + 4) == MODE_RAW:
                    memcpy(page, data, PAGE)
                    data += PAGE
                elif (mark == NULL or mark[number]) and not _is_zero(page):
                    memset(page, 0, PAGE)
                if mark != NULL:
                    mark[number] = 1
                entry += ENTRY
    if found.fault != SOUND:
        raise _refusal(found, start, pages)
    return _answer(found, start)
