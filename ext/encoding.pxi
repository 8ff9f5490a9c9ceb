"""How long plain 32-bit instructions are (Intel SDM 2, appendix A). Included by cpu.pyx.

What compilers make of C consists of a few dozen opcodes, whose lengths a small table gives. Most of the
rest has a length too, but who decodes it had better ask QEMU, which executes it; here it is *not plain*.
"""

cdef enum:
    ALONE = 1           # nothing follows the opcode
    MODRM = 2
    BYTE = 4            # an immediate, or a displacement relative to EIP, of one byte
    WORD = 8            # of two
    FULL = 16           # of four, or two with an operand-size prefix
    NEAR = 32           # of four; with an operand-size prefix not plain
    ADDRESS_32 = 64     # a moffs32
    PREFIX = 128
    LONGEST_INSTRUCTION = 15

cdef uint8_t[256] PLAIN
cdef uint8_t[256] PLAIN_AFTER_0F


cdef void describe(uint8_t *table, uint32_t first, uint32_t last, uint8_t kind) noexcept:
    cdef uint32_t i
    for i in range(first, last + 1):
        table[i] = kind


cdef void describe_plain_instructions() noexcept:
    cdef uint32_t i
    for i in range(0, 0x40, 8):         # ADD, OR, ADC, SBB, AND, SUB, XOR, CMP
        describe(PLAIN, i, i + 3, MODRM)
        PLAIN[i + 4] = BYTE
        PLAIN[i + 5] = FULL
    for i in (0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0xf0, 0xf2, 0xf3):
        PLAIN[i] = PREFIX
    describe(PLAIN, 0x40, 0x5f, ALONE)  # INC, DEC, PUSH, POP of registers
    PLAIN[0x68] = FULL
    PLAIN[0x69] = MODRM | FULL
    PLAIN[0x6a] = BYTE
    PLAIN[0x6b] = MODRM | BYTE
    describe(PLAIN, 0x6c, 0x6f, ALONE)  # INS, OUTS
    describe(PLAIN, 0x70, 0x7f, BYTE)   # Jcc
    PLAIN[0x80] = PLAIN[0x83] = MODRM | BYTE
    PLAIN[0x81] = MODRM | FULL
    describe(PLAIN, 0x84, 0x8f, MODRM)  # TEST, XCHG, MOV, LEA, POP
    describe(PLAIN, 0x90, 0x99, ALONE)
    describe(PLAIN, 0x9c, 0x9f, ALONE)
    describe(PLAIN, 0xa0, 0xa3, ADDRESS_32)
    describe(PLAIN, 0xa4, 0xaf, ALONE)  # strings
    PLAIN[0xa8] = BYTE
    PLAIN[0xa9] = FULL
    describe(PLAIN, 0xb0, 0xb7, BYTE)   # MOV of immediates
    describe(PLAIN, 0xb8, 0xbf, FULL)
    PLAIN[0xc0] = PLAIN[0xc1] = PLAIN[0xc6] = MODRM | BYTE
    PLAIN[0xc2] = WORD                  # RET
    PLAIN[0xc3] = PLAIN[0xc9] = PLAIN[0xcc] = PLAIN[0xcf] = ALONE
    PLAIN[0xc7] = MODRM | FULL
    PLAIN[0xcd] = BYTE
    describe(PLAIN, 0xd0, 0xd3, MODRM)  # shifts
    describe(PLAIN, 0xd8, 0xdf, MODRM)  # x87
    describe(PLAIN, 0xe0, 0xe7, BYTE)   # LOOP, JECXZ, IN, OUT
    PLAIN[0xe8] = PLAIN[0xe9] = NEAR
    PLAIN[0xeb] = BYTE
    describe(PLAIN, 0xec, 0xef, ALONE)  # IN, OUT
    describe(PLAIN, 0xf4, 0xf5, ALONE)
    describe(PLAIN, 0xf6, 0xf7, MODRM)  # with an immediate where they are TEST: see plain_instruction
    describe(PLAIN, 0xf8, 0xfd, ALONE)
    describe(PLAIN, 0xfe, 0xff, MODRM)
    PLAIN_AFTER_0F[0x1f] = MODRM        # long NOPs
    PLAIN_AFTER_0F[0x31] = ALONE        # RDTSC
    describe(PLAIN_AFTER_0F, 0x40, 0x4f, MODRM)     # CMOVcc
    describe(PLAIN_AFTER_0F, 0x80, 0x8f, NEAR)      # Jcc
    describe(PLAIN_AFTER_0F, 0x90, 0x9f, MODRM)     # SETcc
    for i in (0xa3, 0xa5, 0xab, 0xad, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xbb, 0xbe, 0xbf, 0xc0, 0xc1, 0xc7):
        PLAIN_AFTER_0F[i] = MODRM       # BT and its kin, double shifts, IMUL, CMPXCHG, MOVZX, MOVSX, XADD
    for i in (0xa4, 0xac, 0xba):
        PLAIN_AFTER_0F[i] = MODRM | BYTE
    describe(PLAIN_AFTER_0F, 0xc8, 0xcf, ALONE)     # BSWAP


cdef uint32_t plain_instruction(const uint8_t *code, uint32_t left, uint32_t *opcode) noexcept nogil:
    """Length of the instruction that begins ``code``, of which ``left`` bytes can be read, in a 32-bit segment.

    ``opcode`` becomes the offset of its opcode (of 0F, if it has two bytes). 0: it is not plain, or not all there.
    """
    cdef uint32_t at = 0
    cdef uint32_t full = 4
    cdef uint8_t kind, modrm
    cdef uint8_t first
    while True:
        if at >= left:
            return 0
        first = code[at]
        kind = PLAIN[first]
        if kind != PREFIX:
            break
        if first == 0x66:
            full = 2
        at += 1
    opcode[0] = at
    at += 1
    if first == 0x0f:
        if at >= left:
            return 0
        kind = PLAIN_AFTER_0F[code[at]]
        at += 1
    if kind == 0 or (kind & NEAR and full == 2):
        return 0
    if kind & MODRM:
        if at >= left:
            return 0
        modrm = code[at]
        at += 1
        if first == 0xf6 or first == 0xf7:
            if modrm & 0x38 == 8:
                return 0
            if modrm & 0x38 == 0:
                kind |= BYTE if first == 0xf6 else FULL
        if modrm < 0xc0:
            if modrm & 7 == 4:
                if at >= left:
                    return 0
                if modrm < 0x40 and code[at] & 7 == 5:
                    at += 4
                at += 1
            elif modrm < 0x40 and modrm & 7 == 5:
                at += 4
            if modrm & 0xc0 == 0x40:
                at += 1
            elif modrm & 0xc0 == 0x80:
                at += 4
    if kind & BYTE:
        at += 1
    elif kind & WORD:
        at += 2
    elif kind & FULL:
        at += full
    elif kind & (NEAR | ADDRESS_32):
        at += 4
    return at if at <= left and at <= LONGEST_INSTRUCTION else 0


describe_plain_instructions()


def plain_length(bytes code):
    """Length of the plain 32-bit instruction that begins ``code``; 0 if there is none."""
    cdef uint32_t opcode
    return plain_instruction(<const uint8_t *>code, <uint32_t>len(code), &opcode)
