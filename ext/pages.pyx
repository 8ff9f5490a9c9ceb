# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Page serialization: what is zero, checksums, bulk encoding and decoding. See pages.pyi.

``hypervisor/state/pages.py`` is the readable twin of this file and the oracle of its tests: both
give the same bytes, the same numbers and the same error messages. This one reads memory at the
host's speed and lets other Python threads run meanwhile.

The one rule here: a number that came from outside is compared with what the buffers hold *before*
it is used, and ``decode`` writes nothing until the whole chunk has passed.
"""

from cpython.array cimport array, clone
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport pwrite
from libc.string cimport memcpy, memmove, memset

from collections import namedtuple

from hypervisor.errors import StateError

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_HUGEPAGE

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
    MODE_COPY = 3
    LONGEST_RUN = 0xffff
    WORD = 8           # unit of a delta
    RUN = 4            # of a delta: words to skip, words that follow

PAGE_SIZE = PAGE
ZERO = MODE_ZERO
RAW = MODE_RAW
DELTA = MODE_DELTA
COPY = MODE_COPY
IMPLEMENTATION = "compiled"

Contents = namedtuple("Contents", "zero raw delta copied first last")
Encoded = namedtuple("Encoded", "next start length zero raw delta copied unchanged skipped")

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


cdef uint64_t _hash_page(const uint8_t *p, uint64_t seed) noexcept nogil:
    # A page is a multiple of 32 bytes, so XXH64's handling of a shorter tail is not needed.
    cdef uint64_t a = seed + P1 + P2, b = seed + P2, c = seed, d = seed - P1, h
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


def page_hashes(const uint8_t[::1] ram not None, const uint32_t[::1] numbers not None, uint64_t seed=0):
    cdef Py_ssize_t count = numbers.shape[0], i
    cdef array hashes = clone(_NO_HASHES, count, zero=False)
    cdef uint64_t *out = <uint64_t *>hashes.data.as_voidptr
    _check_numbers(ram.shape[0], numbers)
    with nogil:
        for i in range(count):
            out[i] = _hash_page(&ram[<Py_ssize_t>numbers[i] * PAGE], seed)
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


cdef inline void _put16(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = value & 255
    p[1] = (value >> 8) & 255


def bound(Py_ssize_t count):
    return HEAD + count * (ENTRY + PAGE)


cdef size_t _delta(const uint8_t *new, const uint8_t *old, uint8_t *out) noexcept nogil:
    """The runs that make ``new`` of ``old``; returns their length, PAGE if they are no shorter than that."""
    cdef size_t used = 0, at = 0, begin, length
    cdef uint64_t a, b
    while True:
        begin = at
        while at < PAGE:
            memcpy(&a, new + at, WORD)
            memcpy(&b, old + at, WORD)
            if a != b:
                break
            at += WORD
        if at == PAGE:
            return used
        length = at
        while at < PAGE:
            memcpy(&a, new + at, WORD)
            memcpy(&b, old + at, WORD)
            if a == b:
                break
            at += WORD
        if used + RUN + at - length >= PAGE:
            return PAGE
        _put16(out + used, (length - begin) // WORD)
        _put16(out + used + 2, (at - length) // WORD)
        memcpy(out + used + RUN, new + length, at - length)
        used += RUN + at - length


cdef bint _delta_fits(const uint8_t *data, size_t size) noexcept nogil:
    """Do these runs stay within a page, and within their ``size`` bytes?"""
    cdef size_t used = 0, at = 0, count
    while used < size:
        if size - used < RUN:
            return False
        count = _get16(data + used + 2)
        at += _get16(data + used) + count
        used += RUN + count * WORD
        if count == 0 or at > PAGE // WORD or used > size:
            return False
    return True


cdef void _apply(const uint8_t *data, size_t size, uint8_t *page) noexcept nogil:
    cdef size_t used = 0, at = 0, count
    while used < size:
        at += _get16(data + used) * WORD
        count = _get16(data + used + 2) * WORD
        memcpy(page + at, data + used + RUN, count)
        at += count
        used += RUN + count


cdef struct Tally:
    size_t next
    size_t used          # of the data
    uint32_t entries
    uint64_t zero, raw, delta, copied, unchanged, skipped


cdef class Encoder:
    cdef const uint8_t[::1] ram
    cdef size_t pages
    cdef uint64_t seed
    cdef size_t slots            # versions that are kept: a ring, the oldest goes first
    cdef size_t turn
    cdef uint8_t *versions
    cdef int32_t *slot_of        # of each page, -1 if its version is not kept
    cdef int32_t *owner          # of each slot, -1 if it is free
    cdef uint64_t *hash_of       # of each page as it was sent, 0 if it is not known
    cdef uint32_t *table         # by the low bits of a hash: number of a page with it, plus one
    cdef uint64_t mask

    def __cinit__(self, const uint8_t[::1] ram not None, size_t versions=0, uint64_t seed=0):
        cdef size_t i
        self.ram = ram
        self.pages = ram.shape[0] // PAGE
        self.seed = seed
        self.slots = min(versions, self.pages)
        if self.slots:
            # In large pages, where there are any: the first touch of so many small ones costs more than copying them.
            self.versions = <uint8_t *>mmap(NULL, self.slots * PAGE, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
            if <void *>self.versions == MAP_FAILED:
                self.versions = NULL
                raise MemoryError
            madvise(self.versions, self.slots * PAGE, MADV_HUGEPAGE)
            self.slot_of = <int32_t *>calloc(self.pages, sizeof(int32_t))
            self.owner = <int32_t *>calloc(self.slots, sizeof(int32_t))
            if self.slot_of == NULL or self.owner == NULL:
                raise MemoryError
            for i in range(self.pages):
                self.slot_of[i] = -1
            for i in range(self.slots):
                self.owner[i] = -1

    def __dealloc__(self):
        if self.versions != NULL:
            munmap(self.versions, self.slots * PAGE)
        free(self.slot_of)
        free(self.owner)
        free(self.hash_of)
        free(self.table)

    cdef int _check_marks(self, size_t count) except -1:
        if count != self.pages:
            raise ValueError(f"{count} marks for {self.pages} pages")
        return 0

    cdef int _begin_hashes(self) except -1:
        cdef uint64_t size = 16
        while size < 2 * self.pages:
            size *= 2
        self.mask = size - 1
        self.hash_of = <uint64_t *>calloc(self.pages, sizeof(uint64_t))
        self.table = <uint32_t *>calloc(size, sizeof(uint32_t))
        if self.hash_of == NULL or self.table == NULL:
            raise MemoryError
        return 0

    def encode(self, const uint8_t[::1] wanted not None, size_t first, uint8_t[::1] out not None, *,
               const uint8_t[::1] skip=None, const uint8_t[::1] present=None, object until=None,
               bint remember=False, bint dedupe=False):
        cdef size_t room = out.shape[0], most, start
        cdef size_t end = self.pages if until is None else min(<size_t>until, self.pages)
        cdef const uint8_t *skipping = NULL
        cdef const uint8_t *holding = NULL
        cdef Tally tally
        self._check_marks(wanted.shape[0])
        if skip is not None:
            self._check_marks(skip.shape[0])
        if present is not None:
            self._check_marks(present.shape[0])
        if room < HEAD + ENTRY + PAGE:
            raise ValueError(f"a chunk needs room for {bound(1)} bytes at least")
        most = (room - HEAD) // (ENTRY + PAGE)
        if skip is not None and self.pages:
            skipping = &skip[0]
        if present is not None and self.pages:
            holding = &present[0]
        if dedupe and self.table == NULL and self.pages:
            self._begin_hashes()
        memset(&tally, 0, sizeof(tally))
        tally.next = first
        if self.pages:
            with nogil:
                self._fill(&wanted[0], skipping, holding, end, remember, dedupe, most, &out[0], &tally)
        # The directory moves up to its data, so that the chunk is in one piece.
        start = (most - tally.entries) * ENTRY
        if start:
            memmove(&out[HEAD + start], &out[HEAD], tally.entries * ENTRY)
        _put32(&out[start], tally.entries)
        _put32(&out[start + 4], <uint32_t>tally.used)
        return Encoded(tally.next, start, HEAD + tally.entries * ENTRY + tally.used, tally.zero, tally.raw,
                       tally.delta, tally.copied, tally.unchanged, tally.skipped)

    cdef void _fill(self, const uint8_t *wanted, const uint8_t *skip, const uint8_t *present, size_t end,
                    bint remember, bint dedupe, size_t most, uint8_t *out, Tally *tally) noexcept nogil:
        cdef size_t n = tally.next, size
        cdef uint8_t *entry = out + HEAD          # the one that comes next
        cdef uint8_t *data = out + HEAD + most * ENTRY
        cdef uint8_t scratch[PAGE]
        cdef const uint8_t *page
        cdef int32_t slot
        cdef uint64_t hash
        cdef uint32_t other
        while n < end and tally.entries < most:
            if not wanted[n]:
                n += 1
                continue
            if skip != NULL and skip[n]:
                tally.skipped += 1
                n += 1
                continue
            page = &self.ram[0] + n * PAGE
            slot = self.slot_of[n] if self.slots else -1
            if (present != NULL and not present[n]) or (slot < 0 and _is_zero(page)):
                self._zero(n, entry, tally)
                entry = out + HEAD + tally.entries * ENTRY
                n += 1
                continue
            # From here on the page is what it is at this moment: the guest may be writing to it.
            memcpy(data, page, PAGE)
            size = PAGE
            if slot >= 0:
                if _is_zero(data):
                    self._zero(n, entry, tally)
                    entry = out + HEAD + tally.entries * ENTRY
                    n += 1
                    continue
                size = _delta(data, self.versions + <size_t>slot * PAGE, scratch)
                if size == 0:
                    tally.unchanged += 1
                    n += 1
                    continue
                memcpy(self.versions + <size_t>slot * PAGE, data, PAGE)
            elif remember and self.slots:
                self._keep(n, data)
            other = 0
            if dedupe:
                hash = _hash_page(data, self.seed) or 1       # 0 stands for an unknown one
                other = self._same(n, hash)
            elif self.table != NULL:
                self.hash_of[n] = 0
            _put32(entry, <uint32_t>n)
            if other:
                size = 4
                _put32(data, other - 1)
                _put32(entry + 4, MODE_COPY | (4 << 16))
                tally.copied += 1
            elif size < PAGE:
                memcpy(data, scratch, size)
                _put32(entry + 4, MODE_DELTA | (<uint32_t>size << 16))
                tally.delta += 1
            else:
                _put32(entry + 4, MODE_RAW | (PAGE << 16))
                tally.raw += 1
            data += size
            tally.used += size
            entry += ENTRY
            tally.entries += 1
            n += 1
        # Up to the next page that there is to encode, or the end: what follows knows that it is done.
        while n < end and not wanted[n]:
            n += 1
        tally.next = n

    cdef void _zero(self, size_t n, uint8_t *entry, Tally *tally) noexcept nogil:
        """The page is all zero: one more of a run that ends before it, or the first of a new one."""
        cdef uint8_t *last = entry - ENTRY
        tally.zero += 1
        if self.slots and self.slot_of[n] >= 0:
            self.owner[self.slot_of[n]] = -1
            self.slot_of[n] = -1
        if self.table != NULL:
            self.hash_of[n] = 0
        if (tally.entries and _get16(last + 4) == MODE_ZERO and _get16(last + 6) < LONGEST_RUN
                and _get32(last) + _get16(last + 6) == n):
            _put16(last + 6, _get16(last + 6) + 1)
            return
        _put32(entry, <uint32_t>n)
        _put32(entry + 4, MODE_ZERO | (1 << 16))
        tally.entries += 1

    cdef void _keep(self, size_t n, const uint8_t *page) noexcept nogil:
        """Keep this version of a page, in place of the oldest."""
        cdef size_t slot = self.turn
        self.turn = (slot + 1) % self.slots
        if self.owner[slot] >= 0:
            self.slot_of[self.owner[slot]] = -1
        self.owner[slot] = <int32_t>n
        self.slot_of[n] = <int32_t>slot
        memcpy(self.versions + slot * PAGE, page, PAGE)

    cdef uint32_t _same(self, size_t n, uint64_t hash) noexcept nogil:
        """A page that was last sent with the same contents, plus one; 0 if none is known. Notes the hash."""
        cdef uint32_t other = self.table[hash & self.mask]
        self.hash_of[n] = hash
        if other and other - 1 != n and self.hash_of[other - 1] == hash:
            return other
        self.table[hash & self.mask] = <uint32_t>n + 1
        return 0


cdef enum Fault:
    SOUND
    SHORT_HEAD
    SHORT_DIRECTORY
    OUTSIDE
    ORDER
    ENCODING
    LENGTH
    DATA
    NEW          # delta or copy, where every page comes for the first time
    RUNS
    UNSEEN

cdef struct Summary:
    Fault fault
    uint32_t index       # of the entry at fault
    uint64_t zero, raw, delta, copied
    int64_t first, last


cdef Summary _inspect(const uint8_t *chunk, size_t length, size_t pages, bint again) noexcept nogil:
    """Look at everything a chunk says, and at nothing beyond its ``length`` bytes.

    ``again``: may pages have come before?
    """
    cdef Summary found
    cdef size_t count, used = 0
    cdef uint32_t mode, size, i
    cdef uint64_t number, run
    cdef const uint8_t *entry = chunk + HEAD
    cdef const uint8_t *data
    memset(&found, 0, sizeof(found))
    found.first = found.last = -1
    found.fault = SHORT_HEAD
    if length < HEAD:
        return found
    found.fault = SHORT_DIRECTORY
    count = _get32(chunk)
    if count > (length - HEAD) // ENTRY:
        return found
    data = entry + count * ENTRY
    length -= HEAD + count * ENTRY
    for i in range(<uint32_t>count):
        found.index = i
        number = _get32(entry)
        mode = _get16(entry + 4)
        size = _get16(entry + 6)
        run = size if mode == MODE_ZERO else 1
        if number + run > pages:
            found.fault = OUTSIDE
            return found
        if <int64_t>number <= found.last:
            found.fault = ORDER
            return found
        if mode > MODE_COPY:
            found.fault = ENCODING
            return found
        if mode >= MODE_DELTA and not again:
            found.fault = NEW
            return found
        if size == 0 or size > PAGE and mode != MODE_ZERO or size != PAGE and mode == MODE_RAW or (
                size != 4 and mode == MODE_COPY):
            found.fault = LENGTH
            return found
        if mode == MODE_ZERO:
            found.zero += run
            size = 0
        elif mode == MODE_RAW:
            found.raw += 1
        elif mode == MODE_DELTA:
            found.delta += 1
        else:
            found.copied += 1
        if used + size > length:
            found.fault = DATA
            return found
        if mode == MODE_DELTA and not _delta_fits(data + used, size):
            found.fault = RUNS
            return found
        if mode == MODE_COPY and _get32(data + used) >= pages:
            found.fault = OUTSIDE
            return found
        used += size
        if found.first < 0:
            found.first = number
        found.last = number + run - 1
        entry += ENTRY
    found.fault = SOUND
    if used != _get32(chunk + 4) or used != length:
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
        return StateError(f"RAM chunk: page {number}, or what it refers to, is outside the {pages} pages of RAM")
    if found.fault == ORDER:
        return StateError(f"RAM chunk: page {number} is out of order")
    if found.fault == NEW:
        return StateError(f"RAM chunk: page {number} is told by another version of it, but comes for the first time")
    if found.fault == RUNS:
        return StateError(f"RAM chunk: page {number} has a delta that does not fit into a page")
    if found.fault == UNSEEN:
        return StateError(f"RAM chunk: page {number} refers to a page that has not come yet")
    if found.fault == ENCODING:
        return StateError(f"RAM chunk: page {number} has encoding {_get16(entry + 4)}, which this version does not read")
    return StateError(f"RAM chunk: page {number} has {_get16(entry + 6)} bytes")


cdef object _contents(Summary found):
    return Contents(found.zero, found.raw, found.delta, found.copied, found.first, found.last)


def inspect(const uint8_t[::1] chunk not None, Py_ssize_t pages):
    cdef const uint8_t *start = &chunk[0] if chunk.shape[0] else NULL
    cdef Summary found
    if pages < 0:
        raise ValueError("a negative number of pages")
    with nogil:
        found = _inspect(start, chunk.shape[0], pages, False)
    if found.fault != SOUND:
        raise _refusal(found, start, pages)
    return _contents(found)


def decode(const uint8_t[::1] chunk not None, uint8_t[::1] ram not None, uint8_t[::1] seen=None, int file=-1):
    cdef const uint8_t *start = &chunk[0] if chunk.shape[0] else NULL
    cdef size_t pages = ram.shape[0] // PAGE
    cdef uint8_t *mark = NULL
    cdef uint8_t *memory = &ram[0] if pages else NULL
    cdef Summary found
    if seen is not None:
        if <size_t>seen.shape[0] != pages:
            raise ValueError(f"{seen.shape[0]} marks for {pages} pages")
        if pages:
            mark = &seen[0]
    with nogil:
        found = _inspect(start, chunk.shape[0], pages, mark != NULL)
        if found.fault == SOUND:
            _decode(start, memory, mark, file, &found)
    if found.fault != SOUND:
        raise _refusal(found, start, pages)
    return _contents(found)


cdef uint32_t _fresh_run(const uint8_t *entry, uint32_t count, const uint8_t *mark) noexcept nogil:
    """How many entries from here on are raw pages behind each other that come for the first time."""
    cdef uint32_t n = 0, first = _get32(entry)
    while (n < count and _get16(entry + 4) == MODE_RAW and _get32(entry) == first + n and not mark[first + n]):
        n += 1
        entry += ENTRY
    return n


cdef void _decode(const uint8_t *chunk, uint8_t *ram, uint8_t *mark, int file, Summary *found) noexcept nogil:
    """Write the pages of a chunk that passed ``_inspect``."""
    cdef const uint8_t *entry = chunk + HEAD
    cdef uint32_t count = _get32(chunk), i = 0, mode
    cdef const uint8_t *data = entry + <size_t>count * ENTRY
    cdef size_t number, other, run
    cdef uint8_t *page
    while i < count:
        found.index = i
        if file >= 0 and mark != NULL:
            # The kernel is faster with whole pages that it need not map and clear first.
            run = _fresh_run(entry, count - i, mark)
            number = _get32(entry)
            if run and pwrite(file, data, run * PAGE, number * PAGE) == <ssize_t>(run * PAGE):
                memset(mark + number, 1, run)
                data += run * PAGE
                entry += run * ENTRY
                i += run
                continue
        i += 1
        number = _get32(entry)
        mode = _get16(entry + 4)
        page = ram + number * PAGE
        if mode == MODE_ZERO:
            for run in range(_get16(entry + 6)):
                # Fresh memory is not touched, so it costs nothing.
                if (mark == NULL or mark[number + run]) and not _is_zero(page):
                    memset(page, 0, PAGE)
                if mark != NULL:
                    mark[number + run] = 1
                page += PAGE
            entry += ENTRY
            continue
        if mode == MODE_RAW:
            memcpy(page, data, PAGE)
        elif mode == MODE_DELTA:
            if not mark[number]:
                found.fault = UNSEEN
                return
            _apply(data, _get16(entry + 6), page)
        else:
            other = _get32(data)
            if not mark[other]:
                found.fault = UNSEEN
                return
            memmove(page, ram + other * PAGE, PAGE)
        if mark != NULL:
            mark[number] = 1
        data += _get16(entry + 6)
        entry += ENTRY
