"""What CPUID says: a processor with only those features that every technique carries.

Family 5, like the first processors that had CPUID as a matter of course; x87 FPU, 4 MiB pages, TSC, MSRs,
CMPXCHG8B, CMOV, MMX, FXSR, SSE and SSE2, and the bit that says "hypervisor". No APIC, PAE, PGE, SYSENTER.
"""

from __future__ import annotations

VENDOR = b"AuthenticAMD"
BRAND = b"Trap-and-emulate teaching CPU".ljust(48, b"\0")

FPU, PSE, TSC, MSR, CX8, CMOV, MMX, FXSR, SSE, SSE2 = (
    1 << bit for bit in (0, 3, 4, 5, 8, 15, 23, 24, 25, 26)
)
FEATURES = FPU | PSE | TSC | MSR | CX8 | CMOV | MMX | FXSR | SSE | SSE2
HYPERVISOR = 1 << 31
SIGNATURE = 5 << 8 | 8 << 4
HIGHEST = 1
HIGHEST_EXTENDED = 0x80000004


def _words(text: bytes) -> list[int]:
    return [int.from_bytes(text[i : i + 4], "little") for i in range(0, len(text), 4)]


def cpuid(leaf: int) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX for a leaf (AMD APM 3, appendix E). Leaves beyond the highest give those of the highest."""
    if leaf == 0 or leaf == 0x80000000:
        ebx, edx, ecx = _words(VENDOR)
        return HIGHEST if leaf == 0 else HIGHEST_EXTENDED, ebx, ecx, edx
    if leaf == 0x80000001:
        return SIGNATURE, 0, 0, 0
    if 0x80000002 <= leaf <= HIGHEST_EXTENDED:
        eax, ebx, ecx, edx = _words(BRAND[16 * (leaf - 0x80000002) :][:16])
        return eax, ebx, ecx, edx
    return SIGNATURE, 0, HYPERVISOR, FEATURES
