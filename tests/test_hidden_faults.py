"""A page fault that the monitor keeps to itself changes nothing in the guest, whichever instruction has it.

Each instruction runs twice: on a machine whose shadow holds the pages that it uses, and on one that has just
lost them, or one of them, or the right to write to them. Then the two must be in the same state. The fault
comes in the middle of a block that has run before, where QEMU has to take back what it has begun.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import pytest
import unicorn
from guests_kit import CODE, DATA, DIRECTORY, ENOUGH, TABLE, event, load, machine, put
from unicorn.x86_const import UC_X86_REG_ECX, UC_X86_REG_EFLAGS

from hypervisor.ext.cpu import EXIT_SITE

PAGE = DATA + 0x1000
OPERAND = PAGE + 0x100
SEAM = PAGE + 0xFFE
"""An operand of four bytes at this address is in two pages."""
START = CODE + 0x800
COUNTER = 0x8F00
SECOND_TIME_WITHIN = 60
FLAGS = 0x8D5

PRODUCERS = {
    "cmp": "39d8",
    "cmp imm": "83f804",
    "sub": "2bc3",
    "neg": "f7d8",
    "add": "01d8",
    "adc": "11d8",
    "sbb": "19d8",
    "and": "21d8",
    "xor same": "31c0",
    "inc": "40",
    "dec": "48",
    "shl imm": "c1e003",
    "shl cl": "d3e0",
    "shl by none": "88d1c1e100d3e0",
    "sar 1": "d1f8",
    "sar cl": "d3f8",
    "rol 1": "d1c0",
    "ror cl": "d3c8",
    "rcl 1": "d1d0",
    "shld imm": "0fa4d804",
    "shrd cl": "0fadd8",
    "mul": "f7e3",
    "imul": "0fafc3",
    "bt": "0fa3d8",
    "bsf": "0fbcc3",
    "sahf": "9e",
    "cmc": "f5",
    "daa": "27",
    "aam": "d40a",
    "xadd": "0fc1d8",
    "cmpxchg": "0fb1d8",
    "comiss": "0f2fc1",
    "fcomi": "dbf1",
    "scasb": "ae",
    "popf": "9d",
}
"""Ways to make flags: QEMU remembers each in another way, or computes it at once."""
CMP = PRODUCERS["cmp imm"]
NO_INSTRUCTIONS = frozenset((0x0F, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))


class Field:
    """A machine on which instructions are tried one after the other."""

    def __init__(self, registers: dict[int, int]) -> None:
        vm = self.vm = machine(b"\xf4")
        vm.run(until=5)
        vm.vcpu.set_control(0x33, 0, 0x600)
        put(vm, DATA, bytes((37 * n + 11) & 0xFF for n in range(0x4000)))
        for n, value in enumerate((0x80000004, 0x1F, 0x12345678, 0x7FFFFFFE)):
            vm.cpu.set_general(n, value)
        for n, value in registers.items():
            vm.cpu.set_general(n, value)
        fpu = bytearray(vm.cpu.save_fpu())
        fpu[0:5] = b"\x7f\x03\x00\x00\x01"  # control and status word; the first register is in use
        fpu[32:42] = bytes.fromhex("35c26821a2da0fc90040")
        fpu[160:288] = bytes((91 * n + 5) & 0xFF for n in range(128))
        vm.cpu.load_fpu(bytes(fpu))
        self.start = vm.snapshot()
        self.block = 0
        self.kinds: dict[str, Callable[[], None]] = {
            "shadow dropped": vm.paging.drop,
            "read-only": self.protect,
            "second page absent": self.tear,
        }

    # What is done to the shadow.

    def protect(self) -> None:
        for page in range(PAGE, PAGE + 0x2000, 0x1000):
            self.vm.paging.make_code(page >> 12)

    def tear(self) -> None:
        self.vm.paging.invalidate(SEAM + 2)

    # What is run.

    def place(self, producer: str, instruction: str, *, apart: bool) -> None:
        """Touch all pages; then, twice, make flags and do the instruction, in one block or in two."""
        vm = self.vm
        vm.load_snapshot(self.start)
        touched = range(PAGE - 0x1000, PAGE + 0x3000, 0x1000)
        code = b"".join(b"\x80\x0d" + struct.pack("<I", page) + b"\x00" for page in touched)
        code += b"\xc6\x05" + struct.pack("<I", COUNTER) + b"\x02\xeb\x00"
        self.block = START + len(code)
        body = bytes.fromhex(producer + ("eb00" if apart else "") + instruction) + b"\x90" * 8
        body += b"\xfe\x0d" + struct.pack("<I", COUNTER)
        body += b"\x0f\x85" + struct.pack("<i", -len(body) - 6)
        put(vm, START, code + body + b"\xf4")
        vm.vcpu.eflags = 0x202
        vm.cpu.set_eip(START)

    def second_time(self) -> int:
        """After how many instructions the block begins again; or for the first time, if it does not."""
        first = self.vm.instructions + 6
        self.vm.run(until=first)
        for n in range(first + 1, first + SECOND_TIME_WITHIN):
            if self.vm.run(until=n).reason != "limit":
                break
            if self.vm.cpu.eip == self.block:
                return n
        return first

    def differs(self, producer: str, instruction: str, *, apart: bool = False) -> list[str]:
        """Which kinds of hidden faults this can tell from none."""
        self.place(producer, instruction, apart=apart)
        moment = self.second_time()
        outcomes = {}
        for kind in (None, *self.kinds):
            self.place(producer, instruction, apart=apart)
            self.vm.run(until=moment)
            if kind:
                self.kinds[kind]()
            stop = self.vm.run(until=moment + 60)
            outcomes[kind] = (repr(stop), self.vm.instructions, self.vm.digest())
        return [kind for kind in self.kinds if outcomes[kind] != outcomes[None]]


@pytest.fixture(scope="module")
def field():
    field = Field({4: PAGE + 0x800, 5: PAGE + 0x800, 6: OPERAND, 7: OPERAND + 0x40})
    yield field
    field.vm.close()


@pytest.fixture(scope="module")
def stack_field():
    """Stack and strings lie across the seam."""
    field = Field({1: 9, 4: SEAM + 6, 5: SEAM + 2, 6: SEAM, 7: PAGE + 0x1FFE})
    yield field
    field.vm.close()


def at(address: int, opcode: str, reg: int, immediate: str = "") -> str:
    """An instruction with the operand at ``address`` and a value in the ModRM byte's reg field."""
    return opcode + f"{5 | reg << 3:02x}" + struct.pack("<I", address).hex() + immediate


@pytest.mark.parametrize("producer", PRODUCERS)
def test_flags_survive_conditional_stores_and_rotations_through_carry(field, producer):
    """QEMU loses them: hypervisor/monitor/unrestartable.py."""
    instructions = [at(OPERAND, f"0f{0x90 + condition:02x}", 0) for condition in range(16)]
    for opcode, immediate in (("d0", ""), ("d1", ""), ("d3", ""), ("c0", "05"), ("c1", "05"), ("66d1", "")):
        instructions += [at(SEAM, opcode, reg, immediate) for reg in (2, 3)]
    wrong = {
        (instruction, apart): differs
        for instruction in instructions
        for apart in (False, True)
        if (differs := field.differs(PRODUCERS[producer], instruction, apart=apart))
    }
    assert not wrong


@pytest.mark.parametrize("between", ["", "83c001", "83d000d1d0", "f9", "0f90c083c001f8"])
def test_flags_survive_the_second_of_two_such_instructions_in_a_block(field, between):
    for first in (at(OPERAND, "d1", 2), at(OPERAND, "0f94", 0)):
        for second in (at(SEAM, "d1", 2), at(OPERAND + 8, "0f94", 0), at(OPERAND + 8, "0f9c", 0)):
            assert not field.differs(CMP, first + between + second)
            assert not field.differs("f9" + first, between + second)


def sweep(field: Field, prefix: str, regs: Callable[[int], range | tuple[int, ...]]) -> dict[str, list[str]]:
    wrong = {}
    for escape in ("", "0f"):
        for opcode in range(256):
            if not escape and opcode in NO_INSTRUCTIONS:
                continue
            for reg in regs(opcode):
                instruction = at(SEAM, f"{prefix}{escape}{opcode:02x}", reg, "03030303")
                differs = field.differs(CMP, instruction)
                if differs:
                    wrong[instruction] = differs
    return wrong


@pytest.mark.parametrize("prefix", ["", "66", "f3"])
def test_no_instruction_notices_that_its_memory_operand_was_missing(field, prefix):
    """Integer, x87, MMX and SSE: whatever has a ModRM byte, with one of eight values in its reg field."""
    assert not sweep(field, prefix, lambda opcode: (opcode * 5 & 7,))


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "66", "f2", "f3", "f0"])
def test_no_instruction_of_any_form_notices_that_its_memory_operand_was_missing(field, prefix):
    assert not sweep(field, prefix, lambda opcode: range(8))


@pytest.mark.parametrize("prefix", ["", "66", "f3", "66f3", "f2"])
def test_no_stack_or_string_instruction_notices_that_its_memory_was_missing(stack_field, prefix):
    """[ESI] is the operand where there is one; ESP, EBP, ESI and EDI lie at page boundaries."""
    instructions = [
        f"{prefix}{opcode:02x}3603030303" for opcode in range(256) if opcode not in NO_INSTRUCTIONS
    ]
    wrong = {i: differs for i in instructions if (differs := stack_field.differs(CMP, i))}
    assert not wrong


def test_flags_survive_under_the_wall_clock_too():
    # mov ecx,5; 1: in al,0x80; jmp 2; 2: cmp ecx,4; jmp 3; 3: setae [OPERAND]; pushf; loop 1; hlt
    body = bytes.fromhex("b905000000 e480 eb00 83f904 eb00 0f9305") + struct.pack("<I", OPERAND)
    body += bytes.fromhex("9c e2ea f4")
    pushed = []
    for disturbed in (False, True):
        with machine(body, clock="wall") as vm:
            usual = vm.monitor.exits[EXIT_SITE]

            def then_drop(vm=vm, usual=usual):
                usual()
                vm.paging.drop()

            if disturbed:
                vm.monitor.exits[EXIT_SITE] = then_drop
            assert vm.run().reason == "halted"
            pushed.append(vm.read("gva", vm.registers()["esp"], 20))
    assert pushed[0] == pushed[1]


@pytest.mark.parametrize("opcode", ["c0", "c1", "d0", "d1", "d2", "d3", "66c1", "66d1", "66d3"])
def test_rotations_through_carry_do_what_the_emulated_cpu_does_by_itself(field, opcode):
    """Without a fault it is right: the unicorn package runs the same instruction."""
    bare = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    bare.mem_map(0, 1 << 20)
    random = Random(opcode)
    vm = field.vm
    vm.load_snapshot(field.start)
    for n in range(60):
        flags = random.choice((0, FLAGS, random.getrandbits(12) & FLAGS)) | 2
        count, value = random.getrandbits(8), random.getrandbits(32)
        immediate = f"{random.getrandbits(8):02x}" if "c" in opcode else ""
        code = bytes.fromhex(at(OPERAND, opcode, 2 + n % 2, immediate))
        bare.reg_write(UC_X86_REG_ECX, count)
        bare.reg_write(UC_X86_REG_EFLAGS, flags)
        bare.mem_write(OPERAND, struct.pack("<I", value))
        bare.mem_write(START, code)
        bare.emu_start(START, START + len(code))
        place = START + 32 * n
        put(vm, place, code)
        vm.cpu.set_general(1, count)
        vm.vcpu.eflags = flags
        vm.cpu.set_eip(place)
        put(vm, OPERAND, struct.pack("<I", value))
        vm.run(instructions=1)
        assert vm.cpu.eip == place + len(code)
        assert bytes(vm.ram[OPERAND : OPERAND + 4]) == bare.mem_read(OPERAND, 4)
        assert vm.vcpu.eflags == bare.reg_read(UC_X86_REG_EFLAGS)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("address", [OPERAND, SEAM, PAGE + 0xFFC])
@pytest.mark.parametrize("flags", [0, 0x8D5, 0x800, 0x41])
def test_cmpxchg8b_changes_what_the_manual_says(equal, address, flags):
    # push flags; popf; add esi,0 would change them: nothing between popf and cmpxchg8b; hlt
    registers = ((0, 0x11223344), (1, 0xAABBCCDD), (2, 0x55667788), (3, 0x99AABBCC))
    body = (
        b"\x68"
        + struct.pack("<I", flags | 2)
        + b"\x9d"
        + bytes.fromhex("0fc70d")
        + struct.pack("<I", address)
    )
    old = 0x5566778811223344 if equal else 0x5566778811223345
    with machine(body + b"\xf4") as vm:
        put(vm, address, struct.pack("<Q", old))
        vm.run(until=5)
        for number, value in registers:
            vm.cpu.set_general(number, value)
        assert vm.run(instructions=ENOUGH).reason == "halted"
        registers = vm.registers()
        assert registers["eflags"] & 0x8D5 == (flags | 0x40 if equal else flags & ~0x40)
        found = int.from_bytes(vm.read("gva", address, 8), "little")
        assert found == (0xAABBCCDD99AABBCC if equal else old)
        assert registers["edx"] << 32 | registers["eax"] == old


def test_cmpxchg8b_faults_before_it_changes_anything():
    user = load(1) + b"\x0f\xc7\x0d" + struct.pack("<I", SEAM)
    with machine(user=user) as vm:
        prepare_paging(vm)
        put(vm, TABLE + 4 * (SEAM + 2 >> 12), struct.pack("<I", (SEAM + 2) & ~0xFFF | 5))
        before = bytes(vm.ram[SEAM : SEAM + 8])
        assert event(vm) == (14, 7)
        assert vm.registers()["cr2"] == SEAM + 2
        assert bytes(vm.ram[SEAM : SEAM + 8]) == before


def prepare_paging(vm) -> None:
    """The first 4 MiB one to one, for everybody; paging is on when the machine starts."""
    put(vm, DIRECTORY, struct.pack("<I", TABLE | 7) + bytes(4092))
    put(vm, TABLE, struct.pack("<1024I", *(n << 12 | 7 for n in range(1024))))
    vm.vcpu.set_control(0x80010011, DIRECTORY, 0)


@pytest.mark.parametrize("unknown", ["dcd0", "dcd8", "ded0", "dfd0", "90"], ids=lambda text: f"after {text}")
def test_ports_work_after_what_the_disassembler_does_not_know(unknown):
    """Capstone does not know the undocumented second encodings of some x87 instructions, which QEMU executes."""
    # mov al,0xab; out 0x21,al; mov al,0; <unknown>; in al,0x21; hlt
    with machine(bytes.fromhex("b0ab e621 30c0") + bytes.fromhex(unknown) + b"\xe4\x21\xf4") as vm:
        assert vm.run(instructions=ENOUGH).reason == "halted"
        assert vm.registers()["eax"] & 0xFF == 0xAB


def test_a_port_instruction_stays_one_where_another_address_space_has_other_code():
    """Two directories map 0x200000 to a page with IN AL, 0x21; RET and to one with NOP; NOP; RET."""
    here, other_directory, other_table = 0x200000, 0x60000, 0x61000
    # mov cl,4; mov al,0xab; out 0x21,al; 1: mov al,0; mov edx,DIRECTORY; mov cr3,edx; call here; push eax;
    # mov edx,other; mov cr3,edx; call here; dec cl; jnz 1; hlt
    begin = bytes.fromhex("b104 b0ab e621")
    body = b"\x31\xc0"
    for directory in (DIRECTORY, other_directory):
        body += (
            b"\xba"
            + struct.pack("<I", directory)
            + b"\x0f\x22\xda\xbb"
            + struct.pack("<I", here)
            + b"\xff\xd3"
        )
        body += b"\x50"
    body += b"\xfe\xc9\x75" + struct.pack("b", -len(body) - 4) + b"\xf4"
    with machine(begin + body) as vm:
        prepare_paging(vm)
        put(vm, other_directory, struct.pack("<I", other_table | 7) + bytes(4092))
        put(vm, other_table, vm.ram[TABLE : TABLE + 4096])
        put(vm, TABLE + 4 * (here >> 12), struct.pack("<I", 0x62000 | 7))
        put(vm, other_table + 4 * (here >> 12), struct.pack("<I", 0x63000 | 7))
        put(vm, 0x62000, b"\xe4\x21\xc3")
        put(vm, 0x63000, b"\x90\x90\xc3")
        assert vm.run(instructions=ENOUGH).reason == "halted"
        assert set(vm.read("gva", vm.registers()["esp"], 32)[::4]) == {0xAB}
        assert vm.cpu.exit_counts()[EXIT_SITE] == 5, "the other program ran into exits, or this one into none"
