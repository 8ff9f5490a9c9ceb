"""Numbers of the x86 architecture that everybody needs: registers, flags, descriptor bits.

Registers are numbered as instructions encode them. Sources: Intel SDM 1, 3.4 (registers and EFLAGS);
SDM 3A, 2.5 (control registers) and 3.4.5 (descriptors).
"""

EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI = range(8)
ES, CS, SS, DS, FS, GS = range(6)

CF, PF, AF, ZF, SF, TF, IF, DF, OF = (1 << i for i in (0, 2, 4, 6, 7, 8, 9, 10, 11))
IOPL = 3 << 12
NT = 1 << 14
RF = 1 << 16
VM = 1 << 17
AC = 1 << 18
ID = 1 << 21

CR0_PE = 1
CR0_MP = 2
CR0_EM = 4
CR0_TS = 8
CR0_ET = 0x10
CR0_NE = 0x20
CR0_WP = 0x10000
CR0_AM = 0x40000
CR0_NW = 0x20000000
CR0_CD = 0x40000000
CR0_PG = 0x80000000
CR0_BITS = 0xE005003F

# Bits of the second word of a descriptor.
D_ACCESSED = 1 << 8
D_WRITABLE = 1 << 9
D_READABLE = 1 << 9
D_CONFORMING = 1 << 10
D_CODE = 1 << 11
D_SEGMENT = 1 << 12
D_PRESENT = 1 << 15
D_AVL = 1 << 20
D_BIG = 1 << 22
D_GRANULAR = 1 << 23

MASK_32 = 0xFFFFFFFF
"""All bits of a register. By this name it is a C number where it is compiled; a literal would be an object."""
