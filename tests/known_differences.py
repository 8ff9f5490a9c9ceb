"""Where QEMU 7.2 and this processor differ, and why: what the comparison of cases forgives.

Each difference is a predicate on a case and its two results, and says which fields of the results it explains.
The same list is a table in tutorials/what-traps.md.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import capstone
from case_ground import CODE, GDT, LANDING, LDT, OSFXSR, PG, TF, TS, TSSS, VM, Case, regions

Result = dict[str, int]

EVERYTHING = frozenset(("*",))
DOUBLE_FAULT, GENERAL_PROTECTION, PAGE_FAULT = 8, 13, 14
ARITHMETIC = 0x8D5
CR0_BITS = 0xE005003F
DR6_RESERVED, DR7_RESERVED = 0x1000, 0xF800
"""Bits that always read the same, of which QEMU keeps what was written."""


EM = 1 << 2
ALWAYS_SET, ALWAYS_CLEAR = 1 << 1, 0xFFC08028
"""Of EFLAGS."""
NW, CD = 1 << 29, 1 << 30
PAGE = 4096
ONES = 0xFFFFFFFF
PRESENT, GRANULARITY = 1 << 15, 1 << 23
"""Of a descriptor's second word."""
USER = 4
"""Of a page fault's error code: it came in ring 3."""
FRAME = 24
"""Bytes of the largest frame that an event leaves on the stack where it came."""

TABLE = next(contents for name, _, contents in regions() if name == "gdt")
FAR_CALL = ("lcall", "call ptr")
FAR = (*FAR_CALL, "ljmp", "jmp ptr")
"""As Capstone writes them."""

FLAT_STACKS = frozenset((0x10, 0x23, 0x79, 0x8A, 0xF3))
"""Stack segments of 32 bits."""


def place(result: Result) -> int:
    """Where in the code an event came."""
    return result["eip"] + (16 * result["cs"] if result["eflags"] & VM else 0) - CODE


def instruction(case: Case, result: Result) -> str:
    """The instruction that an event came at, or the empty string if it is none of the case's own."""
    at = place(result)
    if not 0 <= at < len(case.code):
        return ""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32 if case.big else capstone.CS_MODE_16)
    found = next(decoder.disasm_lite(case.code[at:], CODE + at, 1), None)
    return "" if found is None else f"{found[2]} {found[3]}"


def holds(case: Case, *names: str) -> bool:
    """Is there an instruction of such a name in the case?"""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32 if case.big else capstone.CS_MODE_16)
    decoder.skipdata = True
    return any(
        f"{name} {operands}".startswith(names)
        for _, _, name, operands in decoder.disasm_lite(case.code, CODE)
    )


def byte(case: Case, result: Result, offset: int = 0) -> int:
    """The byte of the case's code where an event came, or so far from there; 0 if it is not its own code."""
    at = place(result) + offset
    return case.code[at] if 0 <= at < len(case.code) else 0


@dataclass(frozen=True)
class Known:
    """A difference that has a reason."""

    reason: str
    applies: Callable[[Case, Result, Result], bool]
    fields: frozenset[str]
    """Those of a result that it explains, or EVERYTHING where the case takes another course."""


def only(name: str, bits: int) -> Callable[[Case, Result, Result], bool]:
    """The two results differ in these bits of a field, and in no other."""
    return lambda case, ours, theirs: 0 != ours[name] ^ theirs[name] == (ours[name] ^ theirs[name]) & bits


def fields(*names: str) -> frozenset[str]:
    return frozenset(names)


def pushed(case: Case) -> list[int]:
    """What the PUSH imm32 of a case push."""
    return [int.from_bytes(image, "little") for image in re.findall(rb"\x68(.{4})", case.code, re.DOTALL)]


def sets_nw_alone(case: Case) -> bool:
    """Is there a MOV to CR0 of a value, just loaded, with NW set and CD clear?"""
    loaded = re.findall(rb"[\xb8-\xbf](.{4})\x0f\x22", case.code, re.DOTALL)
    return any(int.from_bytes(value, "little") & (NW | CD) == NW for value in loaded)


def descriptor_of(case: Case, selector: int) -> tuple[int, int]:
    """The two words of a descriptor as the case begins; zeros if there is none."""
    at = (LDT - GDT if selector & 4 else 0) + (selector & ~7)
    if not selector & ~3 or at + 8 > len(TABLE):
        return 0, 0
    low, high = struct.unpack_from("<II", TABLE, at)
    return case.pokes.get(GDT + at, low), case.pokes.get(GDT + at + 4, high)


def segment_base(case: Case, selector: int) -> int:
    low, high = descriptor_of(case, selector)
    return low >> 16 | (high & 0xFF) << 16 | high & 0xFF000000


def segment_limit(case: Case, selector: int) -> int:
    low, high = descriptor_of(case, selector)
    limit = low & 0xFFFF | high & 0xF0000
    return limit << 12 | 0xFFF if high & GRANULARITY else limit


def inner_stack_absent(case: Case) -> bool:
    """Is the descriptor of ring 0's stack, which the TSS names, not present?"""
    selector = case.pokes.get(TSSS + 8, 0)
    high = descriptor_of(case, selector)[1]
    return bool(selector & ~3) and not selector & 4 and selector < LDT - GDT and not high & PRESENT


def halves(word: int) -> tuple[int, int]:
    return word >> 16, word & 0xFFFF


def both(vector: int, ours: Result, theirs: Result) -> bool:
    return ours["vector"] == theirs["vector"] == vector


def on_user_stack(case: Case, ours: Result) -> bool:
    """Did the frame of an event not find room on the stack of ring 3, where its handler runs?"""
    below = segment_base(case, ours["ss"]) + ours["esp"] - ours["cr2"]
    fault = ours["vector"] == PAGE_FAULT and ours["error"] & 6 == 6 and bool(ours["hidden"] & 1)
    return case.cpl == 3 and 0 < below & 0xFFFF <= FRAME and (fault or ours["vector"] == DOUBLE_FAULT)


NEITHER_RF_NOR_EXT = "QEMU sets neither RF in the EFLAGS that a fault saves, nor EXT in error codes"

SUPERVISORS_CALL = "QEMU reads and writes the stacks of a far CALL in ring 3 as a supervisor"

KNOWN = (
    Known(NEITHER_RF_NOR_EXT, only("hidden", 3), fields("hidden")),
    Known("QEMU keeps what is written to reserved bits of CR0", only("cr0", ~CR0_BITS), fields("cr0")),
    Known(
        "QEMU keeps what is written to reserved bits of CR0",
        lambda case, ours, theirs: only("cr0", ~CR0_BITS)(case, ours, theirs) and b"\x0f\x20" in case.code,
        EVERYTHING,
    ),
    Known("QEMU keeps what is written to reserved bits of DR6", only("dr6", DR6_RESERVED), EVERYTHING),
    Known("QEMU keeps what is written to reserved bits of DR7", only("dr7", DR7_RESERVED), EVERYTHING),
    Known(
        "QEMU loads CS with RPL 0 when a call gate leads to conforming code",
        lambda case, ours, theirs: (
            ours["cs"] & ~3 == theirs["cs"] & ~3 and ours["cs"] & 3 == case.cpl > theirs["cs"] & 3
        ),
        EVERYTHING,
    ),
    Known(
        "the emulated CPU's ENTER loads EBP by the stack's size, not by the operand's, where one has 16 bits",
        lambda case, ours, theirs: (
            b"\xc8\x08\x00\x00" in case.code and not (case.big and case.words["ss"] in FLAT_STACKS)
        ),
        EVERYTHING,
    ),
    Known(
        "the emulated CPU finds CR0.TS before it finds that CR4.OSFXSR is clear: #NM instead of #UD",
        lambda case, ours, theirs: (
            "xorps" in (instruction(case, ours)[:5], instruction(case, theirs)[:5])
            and bool(ours["cr0"] & TS)
            and not ours["cr4"] & OSFXSR
        ),
        EVERYTHING,
    ),
    Known(
        "the emulated CPU stores VM in the image of a 32-bit PUSHF in virtual-8086 mode (technique `guest`)",
        lambda case, ours, theirs: case.virtual_8086 and b"\x66\x9c" in case.code,
        EVERYTHING,
    ),
    Known(
        "QEMU enters virtual-8086 mode by an IRET in any ring",
        lambda case, ours, theirs: (
            case.cpl > 0
            and b"\xcf" in case.code
            and (
                bool(theirs["eflags"] & ~ours["eflags"] & VM)
                or not theirs["ds_es"] | theirs["fs_gs"]
                or (ours["tss"] != theirs["tss"] and any(image & VM for image in pushed(case)))
            )
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU lets LTR load a null selector",
        lambda case, ours, theirs: (
            ours["vector"] in (DOUBLE_FAULT, GENERAL_PROTECTION)
            and not ours["error"]
            and instruction(case, ours).startswith("ltr")
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU lets MOV to CR0 set NW without CD",
        lambda case, ours, theirs: (
            sets_nw_alone(case)
            and (ours["cr0"] != theirs["cr0"] or ours["vector"] in (DOUBLE_FAULT, GENERAL_PROTECTION))
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU ignores a LOCK prefix before most instructions that cannot have one",
        lambda case, ours, theirs: (
            0xF0 in (byte(case, ours), byte(case, ours, 1))
            or (
                "undefined" in case.kinds
                and b"\xf0" in case.code
                and (ours["eip"] != theirs["eip"] or not 0 <= place(ours) < len(case.code))
            )
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU's CMPXCHG8B loses the flags",
        lambda case, ours, theirs: b"\x0f\xc7" in case.code and bool(case.words["eflags"] & TF),
        EVERYTHING,
    ),
    Known(
        "QEMU loses the flags when the store of an RCL, RCR or SETcc faults",
        lambda case, ours, theirs: (
            ours["eip"] == theirs["eip"]
            and holds(case, "rcl", "rcr", "set")
            and (
                instruction(case, ours).startswith(("rcl", "rcr", "set"))
                or (
                    ours["cr2"] == theirs["cr2"] != 0
                    and not (ours["eflags"] ^ theirs["eflags"]) & ~ARITHMETIC
                )
            )
        ),
        fields("eflags", "arena", "tss"),
    ),
    Known(
        "QEMU saves other flags when a far CALL or JMP switches tasks: it has not yet computed them",
        lambda case, ours, theirs: (
            holds(case, *FAR)
            and not (ours["eflags"] ^ theirs["eflags"]) & ~ARITHMETIC
            and ours["tss"] != theirs["tss"]
            and ours["eip"] == theirs["eip"]
        ),
        fields("eflags", "arena", "tss"),
    ),
    Known(
        "QEMU delivers the fault of a task whose CS cannot be loaded in ring 0, on the stack of that task",
        lambda case, ours, theirs: (
            both(DOUBLE_FAULT, ours, theirs) and ours["cr2"] == 0 != theirs["cr2"] and holds(case, *FAR)
        ),
        fields("cr2", "tss"),
    ),
    Known(
        "QEMU raises #TS where the inner stack of an event is not present",
        lambda case, ours, theirs: case.cpl > 0 and inner_stack_absent(case),
        EVERYTHING,
    ),
    Known(
        "QEMU looks for TSSs in the LDT too",
        lambda case, ours, theirs: (
            ours["vector"] == GENERAL_PROTECTION
            and bool(ours["error"] & 4)
            and instruction(case, ours).startswith(FAR)
        ),
        EVERYTHING,
    ),
    Known(
        SUPERVISORS_CALL,
        lambda case, ours, theirs: (
            case.cpl == 3
            and holds(case, *FAR_CALL)
            and (
                (
                    ours["vector"] in (DOUBLE_FAULT, PAGE_FAULT)
                    and instruction(case, ours).startswith(FAR_CALL)
                )
                or ours["cr2"] != 0 == theirs["cr2"]
            )
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU names the selector in the error code where a far CALL or JMP leads beyond a segment's limit",
        lambda case, ours, theirs: (
            both(GENERAL_PROTECTION, ours, theirs)
            and ours["error"] == 0 != theirs["error"]
            and instruction(case, ours).startswith(FAR)
        ),
        fields("error", "arena"),
    ),
    Known(
        "QEMU lets RETF and IRET lead beyond a segment's limit",
        lambda case, ours, theirs: (
            ours["vector"] in (DOUBLE_FAULT, GENERAL_PROTECTION)
            and not ours["error"]
            and instruction(case, ours).startswith(("ret", "iret"))
            and theirs["eip"] > segment_limit(case, theirs["cs"])
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU keeps the RPL of a null selector in FS or GS on a return to an outer ring",
        lambda case, ours, theirs: (
            ours["fs_gs"] != theirs["fs_gs"]
            and all(
                mine == other or (mine == 0 and other & ~3 == 0)
                for mine, other in zip(halves(ours["fs_gs"]), halves(theirs["fs_gs"]), strict=True)
            )
        ),
        fields("fs_gs", "arena"),
    ),
    Known(
        "QEMU stores the limit before the base that SGDT or SIDT cannot store; here it is all or nothing",
        lambda case, ours, theirs: (
            "table_register" in case.kinds
            and ours["vector"] == theirs["vector"]
            and ours["eip"] == theirs["eip"]
            and ours["cr2"] == theirs["cr2"] != 0
        ),
        fields("arena"),
    ),
    Known(
        "QEMU enters handlers in ring 1 and 2 from virtual-8086 mode",
        lambda case, ours, theirs: (
            (case.virtual_8086 or any(image & VM for image in pushed(case)))
            and (
                (not theirs["eflags"] & VM and theirs["cs"] & 3 in (1, 2))
                # On the way there it may find that the stack is not right.
                or (
                    ours["vector"] == GENERAL_PROTECTION
                    and descriptor_of(case, ours["error"])[1] >> 13 & 3 in (1, 2)
                )
            )
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU stores the frame of an event as a supervisor even where its handler runs in ring 3",
        lambda case, ours, theirs: (
            (both(PAGE_FAULT, ours, theirs) and only("error", 4)(case, ours, theirs))
            or (case.cpl == 3 and ours["vector"] == DOUBLE_FAULT and theirs["vector"] != DOUBLE_FAULT)
            or (on_user_stack(case, ours) and theirs["cr2"] != ours["cr2"])
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU lets EMMS run with CR0.TS or EM set",
        lambda case, ours, theirs: (
            bool((case.words["cr0"] | ours["cr0"]) & (TS | EM))
            and holds(case, "emms")
            and (instruction(case, ours).startswith("emms") or ours["eip"] != theirs["eip"])
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU lets the trap flag take effect one instruction after STI, as if it were MOV to SS",
        lambda case, ours, theirs: (
            (bool(case.words["eflags"] & TF) and case.code[:1] == b"\xfb")
            or (
                bool(ours["eflags"] & TF)
                and byte(case, ours, -1) == 0xFB
                and (ours["vector"], ours["eip"]) != (theirs["vector"], theirs["eip"])
            )
        ),
        EVERYTHING,
    ),
    Known(
        "QEMU lets LSS hold back the trap flag for one instruction, as MOV to SS does",
        lambda case, ours, theirs: (
            (
                ours["vector"] == 1
                and b"\x0f\xb2" in case.code[: place(ours)]
                and (ours["vector"], ours["eip"]) != (theirs["vector"], theirs["eip"])
            )
            # The trap may lead to a task, which has an event of its own.
            or (bool(case.words["eflags"] & TF) and b"\x0f\xb2" in case.code and ours["tss"] != theirs["tss"])
        ),
        EVERYTHING,
    ),
)


NOWHERE = "what is not there reads as zeros on QEMU, and as ones here: so do page tables there"
STACK_NOT_ACCESSED = (
    "QEMU does not set Accessed in the descriptor of the stack that a return to another ring loads"
)
RF_KEPT = "QEMU stores an RF that IRET has just loaded in the image that INT n pushes"
UNDER_A_GLASS = (NEITHER_RF_NOR_EXT, STACK_NOT_ACCESSED, RF_KEPT, SUPERVISORS_CALL, NOWHERE)
"""What ``explain_memory`` and ``explain_hang`` find."""


def explanations(case: Case, ours: Result, theirs: Result) -> Iterator[tuple[str, frozenset[str]]]:
    """Reasons that hold for this case, each with the fields that it explains."""
    for known in KNOWN:
        if known.applies(case, ours, theirs):
            yield known.reason, frozenset(ours) if known.fields is EVERYTHING else known.fields


def explain_memory(case: Case, region: str, ours: bytes, theirs: bytes) -> str:
    """The reason for which a region of memory differs, looked at byte by byte; or the empty string.

    A handler in the case's own ring leaves the frame of its event there.
    """
    if region == "gdt":
        accessed = (
            at % 8 == 5 and ours[at] == theirs[at] | 1 for at in range(len(ours)) if ours[at] != theirs[at]
        )
        return STACK_NOT_ACCESSED if all(accessed) else ""
    reason = NEITHER_RF_NOR_EXT
    for at, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine == other:
            continue
        # RF is in the third byte of an image of EFLAGS. An error code is followed by EIP, CS and EFLAGS.
        flags = (theirs[at - 2 : at + 2], ours[at + 12 : at + 16], ours[at + 6 : at + 8])
        if other == mine | 1 and flags_image(ours[at - 2 : at + 2]):
            reason = RF_KEPT
        elif (
            mine == other | USER and any(map(flags_image, flags)) and case.cpl == 3 and holds(case, *FAR_CALL)
        ):
            reason = SUPERVISORS_CALL
        elif not (mine == other | 1 and any(map(flags_image, flags))):
            return ""
    return reason


def explain_hang(case: Case, ended: Result) -> str:
    """The reason for which a case that ended so, here or on QEMU, does not end on the other; or the empty string.

    Without paging nothing keeps faults in the handlers of ring 3 from overwriting these handlers by their own frames.
    They are executed then, and the frames are not the same. And a case may store to its page directory, so that
    the result goes nowhere, or the frame that it is made of is read from there.
    """
    if not any(ended.values()) or ended["cs"] == ended["eip"] == ONES:
        return NOWHERE
    over_handlers = LANDING <= ended["esp"] < LANDING + PAGE
    return NEITHER_RF_NOR_EXT if case.cpl == 3 and not ended["cr0"] & PG and over_handlers else ""


def flags_image(image: bytes) -> bool:
    """May this be an image of EFLAGS, or of FLAGS?"""
    return int.from_bytes(image, "little") & (ALWAYS_SET | ALWAYS_CLEAR) == ALWAYS_SET
