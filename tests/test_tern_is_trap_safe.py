"""tern runs with its kernel in ring 1, so it may not use what misbehaves there without a trap.

The instructions are those of Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support a
Secure Virtual Machine Monitor" (USENIX Security 2000), table 2: sensitive, yet unprivileged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import capstone
import pytest
from capstone import x86
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from tern_guest import IMAGE, PROGRAMS, build

SENSITIVE = {
    *("pushf", "pushfd", "pushfw", "popf", "popfd", "popfw"),
    *("sgdt", "sidt", "sldt", "str", "smsw"),
    *("lar", "lsl", "verr", "verw"),
    *("lcall", "retf", "retfq"),
}
FPU_SWITCH = {"fninit", "fnstsw", "fnsave", "frstor", "fxsave", "fxrstor", "ldmxcsr"}
"""What the kernel may do with the FPU: exchange its registers (fpu.c). The last three need ``fxsr``."""
FLOATING_POINT = {"dice", "fault", "selftest"}
"""The programs that compute with the FPU; of these, selftest moves SSE registers if there are any."""
NOT_ON_A_486 = {"cpuid", "rdtsc", "rdpmc", "sysenter", "sysexit", "syscall", "ud0", "ud1"}


def decode(code: bytes, address: int) -> Iterator[capstone.CsInsn]:
    """All instructions of a stretch of code; fails where there is none."""
    md = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    md.detail = True
    done = 0
    for instruction in md.disasm(code, address):
        done += instruction.size
        yield instruction
    assert done == len(code), f"no instruction at {address + done:#x}"


def objection(instruction: capstone.CsInsn, kernel: bool, fpu: bool = False) -> str | None:
    """Why tern may not contain this instruction."""
    name = instruction.mnemonic.split()[-1]
    if name in SENSITIVE:
        return "sensitive but unprivileged"
    if name in {"mov", "push"}:
        source = instruction.operands[-1]
        if source.type == x86.X86_OP_REG and source.reg in {x86.X86_REG_CS, x86.X86_REG_SS}:
            return "shows the privilege level"
    if kernel and name == "int":
        return "software interrupt in the kernel"
    if kernel and name in FPU_SWITCH:
        return None
    groups = {instruction.group_name(group) for group in instruction.groups}
    if (
        name in NOT_ON_A_486
        or name.startswith(("cmov", "fcmov"))
        or (any(g.startswith(("sse", "mmx")) for g in groups) and not (fpu and name == "movups"))
    ):
        return "not on a 486"
    if "fpu" in groups and not fpu:
        return "needs an FPU"
    return None


def objections(code: bytes, address: int, kernel: bool, fpu: bool = False) -> list[str]:
    return [
        f"{i.address:#x}: {i.mnemonic} {i.op_str}: {why}"
        for i in decode(code, address)
        if (why := objection(i, kernel, fpu))
    ]


def executable_sections(path: Path) -> list[tuple[bytes, int]]:
    with path.open("rb") as file:
        elf = ELFFile(file)
        return [
            (section.data(), section["sh_addr"])
            for section in elf.iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
        ]


def multiboot_header_taken_out(code: bytes) -> bytes:
    """The header is data at the start of the code: twelve bytes that become NOPs here."""
    assert code.startswith((0x1BADB002).to_bytes(4, "little"))
    return b"\x90" * 12 + code[12:]


def test_the_kernel_uses_no_instruction_that_ring_1_betrays() -> None:
    build()
    [(code, address)] = executable_sections(IMAGE)
    assert objections(multiboot_header_taken_out(code), address, kernel=True) == []


def test_no_program_uses_an_instruction_that_ring_1_betrays() -> None:
    build()
    programs = sorted(PROGRAMS.iterdir())
    assert len(programs) >= 10
    found = {
        program.name: objections(code, address, kernel=False, fpu=program.name in FLOATING_POINT)
        for program in programs
        for code, address in executable_sections(program)
    }
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_code_constants_descriptors_and_data_never_share_a_page() -> None:
    """A page's shadow is either executable or quick to write to; sharing one would make every store fault."""
    build()
    with IMAGE.open("rb") as file:
        sections = [s for s in ELFFile(file).iter_sections() if s["sh_flags"] & SH_FLAGS.SHF_ALLOC]
        assert {s.name for s in sections} == {".text", ".rodata", ".descriptors", ".data", ".bss"}
        pages: dict[int, str] = {}
        for section in sections:
            for page in range(
                section["sh_addr"] >> 12, (section["sh_addr"] + section["sh_size"] + 4095) >> 12
            ):
                shared = pages.setdefault(page, section.name)
                assert {shared, section.name} <= {".data", ".bss"} or shared == section.name


@pytest.mark.parametrize(
    "code",
    [
        *("9c", "669c", "9d", "0f01442400", "0f014c2400", "0f00c0", "0f00c8", "0f01e0", "0f02c1", "0f03c1"),
        *("0f00e0", "0f00e8", "8cc8", "8cd0", "0e", "16", "9a000000000800", "cb", "cd80", "0fa2", "0f31"),
        *("0f44c1", "d8c1", "0f58c1", "0f6fc1"),
    ],
)
def test_the_test_above_sees(code: str) -> None:
    assert len(objections(bytes.fromhex(code), 0, kernel=True)) == 1


@pytest.mark.parametrize(
    "code", ["8ed0", "8ed8", "8cd8", "1e", "06", "17", "cf", "fa", "fb", "f4", "ea000000000800"]
)
def test_the_test_above_lets_pass(code: str) -> None:
    assert objections(bytes.fromhex(code), 0, kernel=True) == []
