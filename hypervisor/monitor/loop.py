"""The monitor's loop: enter the guest, see why it came back, deal with it, enter again.

It reads as a story. Is anybody asking us to stop? Has a device something to do? Does the guest take an
interrupt? Is it asleep? If none of that: run it until the next thing that must happen, look its exit up
in one table (``Monitor.exits``), and do what the handler there says.

Two hidden matters are also dealt with here. An instruction that was *lent* a page (see paging/shadow.py)
runs alone, under the trap flag, and the guest's own trap flag must not notice. And every event that is
delivered counts like an instruction, so that a guest whose handlers fault for ever still moves in time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hypervisor.ext.cpu import (
    EXIT_BASE,
    EXIT_ERROR,
    EXIT_FENCE,
    EXIT_NESTED,
    EXIT_SCAN,
    EXIT_SITE,
    EXIT_STOP,
    EXIT_UNLEARNED,
    EXIT_UNTRANSLATABLE,
    Cpu,
)
from hypervisor.hardware.faults import (
    DEBUG,
    GENERAL_PROTECTION,
    INVALID_OPCODE,
    WITH_ERROR_CODE,
    GuestFault,
    GuestStopped,
    TripleFault,
)
from hypervisor.hardware.x86 import ESP, IF, MASK_32, SS, TF
from hypervisor.monitor import events, unrestartable
from hypervisor.monitor.clock import VirtualClock
from hypervisor.monitor.decode import IMMEDIATE, PREFIXES, Decoder, Instruction, Operand, operand_address
from hypervisor.monitor.privileged import EMULATED
from hypervisor.monitor.sites import Sites
from hypervisor.monitor.vcpu import VirtualCpu
from hypervisor.paging.physical import NOWHERE
from hypervisor.techniques.base import Technique

FOREVER = (1 << 63) - 1
LONGEST_SLEEP = 3600 * 10**9
"""An exact guest that sleeps longer than this (virtual ns) without being woken is reported as idle."""

# The same as C integers where this module is compiled.
NO_SEAM = -1
NEVER_DUE = FOREVER
FENCE = EXIT_FENCE
PAGE_FAULT_EXIT = EXIT_BASE + 0x4E
NESTED_FAULT_EXIT = EXIT_NESTED
UNTRANSLATABLE = EXIT_UNTRANSLATABLE
GENERAL_PROTECTION_EXIT = EXIT_BASE + 0x4D

VMEXIT = EXIT_BASE
VMEXIT_EXCEPTION = VMEXIT + 0x40
VMEXIT_DB = VMEXIT_EXCEPTION + DEBUG
VMEXIT_PF = VMEXIT_EXCEPTION + 14
VMEXIT_VINTR = VMEXIT + 0x64
VMEXIT_ICEBP = VMEXIT + 0x88
STEPPED = 0x7010
"""The one instruction that was to run has run."""

LOCK_PREFIX = 0xF0

PLAIN_STORES = frozenset((0x89, 0xA3, 0xC7))
"""Opcodes of MOV m32, r32; MOV moffs32, EAX; MOV m32, imm32."""

CODES = (*range(0x7000, 0x7100), *range(EXIT_BASE, EXIT_BASE + 0x100))
"""Exit codes by their lowest nine bits."""

EXIT_NAMES = {
    EXIT_FENCE: "fence",
    EXIT_SITE: "port or system call site",
    EXIT_STOP: "stop",
    EXIT_SCAN: "scan",
    EXIT_UNLEARNED: "unlearned block",
    EXIT_NESTED: "nested page fault",
    EXIT_UNTRANSLATABLE: "untranslatable block",
    STEPPED: "step",
    **{VMEXIT + n: f"read of CR{n}" for n in range(9)},
    **{VMEXIT + 0x10 + n: f"write to CR{n}" for n in range(9)},
    **{VMEXIT + 0x20 + n: f"read of DR{n}" for n in range(8)},
    **{VMEXIT + 0x30 + n: f"write to DR{n}" for n in range(8)},
    VMEXIT_VINTR: "interrupt window",
    **{
        VMEXIT + 0x66 + n: name
        for n, name in enumerate(("SIDT", "SGDT", "SLDT", "STR", "LIDT", "LGDT", "LLDT", "LTR"))
    },
    VMEXIT + 0x6E: "RDTSC",
    VMEXIT + 0x6F: "RDPMC",
    VMEXIT + 0x72: "CPUID",
    VMEXIT + 0x74: "IRET",
    VMEXIT + 0x75: "INT n",
    VMEXIT + 0x78: "HLT",
    VMEXIT + 0x79: "INVLPG",
    VMEXIT + 0x7C: "MSR access",
    VMEXIT + 0x89: "WBINVD",
    VMEXIT_ICEBP: "ICEBP",
    **{
        VMEXIT_EXCEPTION + vector: name
        for vector, name in enumerate(
            ("#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "vector 9")
            + ("#TS", "#NP", "#SS", "#GP", "#PF", "vector 15", "#MF", "#AC", "#MC", "#XM")
        )
    },
}


class Stop:
    """Why a run ended. ``reason`` is one word, ``detail`` says more."""

    def __init__(self, reason: str, detail: str = "", status: int = 0) -> None:
        self.reason = reason
        self.detail = detail
        self.status = status
        """For ``exit``: the status that the guest asked for through isa-debug-exit."""

    def __repr__(self) -> str:
        return f"Stop({self.reason!r}, {self.detail!r})"


class Devices(Protocol):
    """What the loop needs of the machine's devices."""

    interrupt: bool

    def acknowledge(self) -> int: ...

    def next_deadline(self) -> int | None: ...

    def advance(self, now: int) -> None: ...


class Monitor:
    """Runs one virtual CPU among its devices."""

    def __init__(
        self, v: VirtualCpu, technique: type[Technique], devices: Devices, clock: VirtualClock
    ) -> None:
        self.v = v
        self.cpu: Cpu = v.cpu
        self.devices = devices
        self.clock = clock
        self.exact = clock.exact
        self.decoder = Decoder(EMULATED | unrestartable.EMULATED)
        self.sites = Sites(v, technique)
        self.stop: Stop | None = None
        """Set by a device or a handler: stop after this instruction, because …"""
        self.before_entry: Callable[[], None] | None = None
        """Called at a stop request: takes in what arrived from outside; may set ``stop``."""
        self.sleep: Callable[[int | None], None] | None = None
        """How to wait while the guest is idle: gets the ns until the next event, or None if there is none.
        Without it, an idle guest's time jumps to the next event."""
        self.stop_wanted = False
        self.deadline = NEVER_DUE
        """Virtual time of the next device event."""
        self.pending = False
        """Does a device want to interrupt the guest?"""
        self.windowed = not technique.virtual_flags & IF
        """Does the guest change IF by itself? Then the CPU has to tell when interrupts may come in."""
        self.near = 0
        """Until this count the guest is stepped: a fence lies in the middle of a block."""
        self.seam = NO_SEAM
        """An instruction that runs into the page at this linear address is not to run with others: see ``on_page_fault``."""
        self.seam_from = 0
        """From here on up to there."""
        self.alone = False
        """Was it one instruction that ran last?"""
        self.begun = -1
        """Count at which the last page fault was hidden: the next instruction has begun there."""
        self.finishing = False
        """Does a stop wait until that instruction has been executed?"""
        self.exits: dict[int, Callable[[], None]] = {
            EXIT_FENCE: self.nothing,
            EXIT_STOP: self.on_stop,
            EXIT_SCAN: self.on_scan,
            EXIT_UNLEARNED: self.nothing,
            EXIT_SITE: self.on_site,
            EXIT_ERROR: self.on_error,
            STEPPED: self.nothing,
            VMEXIT_VINTR: self.nothing,
            VMEXIT_PF: self.on_page_fault,
            EXIT_NESTED: self.on_nested_fault,
            EXIT_UNTRANSLATABLE: self.on_untranslatable,
            VMEXIT_DB: self.on_debug,
            VMEXIT_EXCEPTION + 10: self.emulate,
            VMEXIT_EXCEPTION + 11: self.emulate,
            VMEXIT_EXCEPTION + 12: self.emulate,
            VMEXIT_EXCEPTION + GENERAL_PROTECTION: self.emulate,
            **{
                VMEXIT_EXCEPTION + vector: self.reflect
                for vector in (0, 2, 3, 4, 5, 6, 7, 8, 9, *range(15, 32))
            },
        }
        """Exit code -> handler. Codes that are not here are instructions that SVM intercepts: ``emulate``."""
        v.now = clock.update

    # ---------------------------------------------------------------- the story

    def run(self, until: int = FOREVER) -> Stop:
        """Run until ``until`` instructions have been retired since boot, or until something stops the guest."""
        cpu, clock = self.cpu, self.clock
        handlers = [self.exits.get(code, self.emulate) for code in CODES]
        # By far the most frequent exit, if nobody has replaced its handler, is not looked up.
        usual = self.exits.get(GENERAL_PROTECTION_EXIT) == self.emulate
        clock.start()
        self.refresh()
        try:
            while True:
                if self.stop is not None:
                    stop, self.stop = self.stop, None
                    return stop
                if self.deadline != NEVER_DUE and clock.update() >= self.deadline:
                    self.devices.advance(clock.now)
                    self.refresh()
                retired = cpu.get_retired()
                if self.finishing and retired > self.begun:
                    self.finishing = False
                    self.on_stop()
                    continue
                if self.exact and retired >= until:
                    return Stop("limit")
                fence = retired + 1 if self.finishing else until
                if self.exact and self.deadline != NEVER_DUE:
                    fence = min(fence, max(clock.count_at(self.deadline), retired + 1))
                if self.pending and self.v.interrupts_on():
                    if not self.v.shadowed():
                        self.interrupt()
                        continue
                    fence = retired + 1
                if self.v.halted:
                    self.idle()
                    continue
                self.v.fence = fence
                if self.windowed:
                    cpu.set_window(self.pending and not self.v.interrupts_on())
                code = self.enter(fence)
                if usual and code == GENERAL_PROTECTION_EXIT:
                    self.emulate()
                else:
                    handlers[code & 511]()
        except GuestStopped as why:
            return Stop("error", str(why))
        except TripleFault:
            return Stop("triple-fault", f"triple fault at {cpu.linear_eip():#x}")
        finally:
            clock.stop()

    def refresh(self) -> None:
        """A device was called: what it wants of the loop may have changed."""
        deadline = self.devices.next_deadline()
        self.deadline = NEVER_DUE if deadline is None else deadline
        self.pending = self.devices.interrupt

    def enter(self, fence: int) -> int:
        """Run the guest; returns the exit code.

        Blocks that end at or before the fence run whole; the instructions before a fence in the middle of
        a block run one by one, and so do those of a block that cannot be translated, and those before a seam. So
        does an instruction with a page on loan.
        """
        cpu = self.cpu
        if self.v.paging.exposed:
            self.v.paging.settle()
        self.alone = False
        if not self.v.paging.loans and cpu.get_retired() >= self.near and not self.must_step():
            code = cpu.run(fence)
            if code == FENCE and cpu.get_retired() < fence:
                self.near = fence
            elif code != UNTRANSLATABLE:
                return code
        self.alone = True
        code = self.step()
        if self.v.paging.loans and code not in (PAGE_FAULT_EXIT, NESTED_FAULT_EXIT):
            if code == EXIT_SCAN:
                # While the page is still there.
                self.on_scan()
                code = STEPPED
            self.v.paging.return_loans()
        return code

    def must_step(self) -> bool:
        """Under the wall clock there is no fence: an interrupt that waits for one more instruction lets it run alone.
        So do the instructions before a seam.
        """
        if self.seam != NO_SEAM:
            if self.seam_from <= self.cpu.linear_eip() < self.seam:
                return True
            self.seam = NO_SEAM
        return not self.exact and self.pending and self.v.shadowed()

    def step(self) -> int:
        """Run one instruction under the trap flag, which the guest does not get to see."""
        v, cpu = self.v, self.cpu
        before = cpu.get_retired()
        flags = cpu.get_eflags()
        opcode = self.opcode()
        cpu.set_eflags(flags | TF)
        # A store that overwrites its own instruction is abandoned by QEMU and begun anew as another block.
        code = cpu.run(before + 2 if v.paging.loans else before + 1)
        after = cpu.get_eflags()
        if code not in (VMEXIT_DB, EXIT_FENCE):
            cpu.set_retired(before)
            cpu.set_eflags(after & ~TF | flags & TF)
            return code
        cpu.set_retired(before + 1)
        if opcode == 0x9C and not flags & TF:
            # PUSHF has stored our trap flag: bit 8 of the image on top of the stack.
            at = v.linear(SS, (cpu.general(ESP) & v.stack_mask) + 1)
            v.store(at, 1, v.load(at, 1, v.user) & ~1, v.user)
        if opcode not in (0x9D, 0xCF):
            # POPF and IRET have loaded the guest's new trap flag; all others keep it.
            cpu.set_eflags(after & ~TF | flags & TF)
        return code if flags & TF else STEPPED

    def opcode(self) -> int:
        """First opcode byte of the next instruction, after the prefixes."""
        v = self.v
        raw = v.memory.fetch(v.paging.root, self.cpu.linear_eip())
        while raw & 0xFF in (0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65):
            raw >>= 8
        return raw & 0xFF

    # ---------------------------------------------------------------- interrupts and sleep

    def interrupt(self) -> None:
        """The guest takes an external interrupt."""
        v = self.v
        v.halted = False
        self.clock.update()
        vector = self.devices.acknowledge()
        self.refresh()
        try:
            events.deliver(v, vector, None, software=False)
        except GuestFault as fault:
            events.raise_fault(v, fault)
        self.count()

    def idle(self) -> None:
        """The guest has halted: sleep until a device wakes it, or say that nobody will."""
        if self.cpu.take_stop():
            self.on_stop()
            return
        if not self.v.interrupts_on():
            self.stop = Stop("halted", "halted with interrupts off: only a reset would wake it")
            return
        left = self.deadline - self.clock.update()
        if self.sleep is not None:
            self.sleep(None if self.deadline == NEVER_DUE else left)
        elif left > LONGEST_SLEEP:
            self.stop = Stop("idle", "asleep, and no device will wake it: it waits for input")
        else:
            self.clock.skip_to(self.deadline)

    # ---------------------------------------------------------------- exits

    def nothing(self) -> None:
        """The loop's next round does what there is to do."""

    def on_stop(self) -> None:
        """Somebody wants something of a guest that stands still.

        An instruction that has begun, in that a page fault of its was hidden, is executed before: Accessed and Dirty bits
        were set for it, which a guest that came to this count without being asked has not set yet.
        """
        if self.exact and self.begun == self.cpu.get_retired():
            self.finishing = True
            return
        if self.before_entry is not None:
            self.before_entry()
            self.refresh()
        if self.stop_wanted:
            self.stop_wanted = False
            if self.stop is None:
                self.stop = Stop("stop", "asked to stop")

    def on_error(self) -> None:
        raise GuestStopped(f"the emulated CPU gave up: {self.cpu.error}")

    def on_scan(self) -> None:
        pc, size = self.cpu.new_block
        self.v.paging.translated_new(pc, size)
        self.sites.scan(pc, size)

    def on_site(self) -> None:
        """A watched instruction is about to run, or was there before its page was written to."""
        instruction = self.decoder.at(self.v)
        if instruction is not None and self.sites.watches(instruction):
            self.carry_out(instruction)
            if instruction.name not in unrestartable.EMULATED:
                self.refresh()
        elif self.sites.confirm():
            # A form of it that Capstone does not know, such as one with a LOCK prefix: there is none.
            self.fault(GuestFault(INVALID_OPCODE))

    def on_page_fault(self) -> None:
        """Hidden if the guest's tables allow the access, otherwise the guest's own.

        A block is translated as a whole, and may reach into the next page, which it will perhaps never get to, or not
        before somebody looks. If that could be seen, the instructions up to there run one by one.
        """
        cpu, v = self.cpu, self.v
        error = cpu.error_code()
        eip = cpu.linear_eip()
        gva, write, user, fetch = cpu.fault_address(), error & 2 != 0, v.cpl == 3, error & 16 != 0
        if (
            fetch
            and gva >> 12 == (eip >> 12) + 1
            and not self.alone
            and not v.paging.guest.reads_unseen(gva, user)
        ):
            self.seam, self.seam_from = gva & ~0xFFF, eip
            return
        try:
            entry = v.paging.fault(gva, write, user, fetch, eip, not v.paging.loans)
            if entry != NOWHERE and not self.store_entry(gva, entry):
                v.paging.fault(gva, write, user, fetch, eip, False)
            self.begun = cpu.get_retired()
        except GuestFault as fault:
            self.fault(fault)

    def on_nested_fault(self) -> None:
        """An access to guest-physical memory that the nested tables have no entry for; always hidden."""
        cpu = self.cpu
        self.v.paging.nested_fault(cpu.fault_address(), cpu.error_code() & 2 != 0, cpu.linear_eip())
        self.begun = cpu.get_retired()

    def on_untranslatable(self) -> None:
        """The CPU cannot translate this instruction by itself: there is no valid one of which that is true."""
        self.fault(GuestFault(INVALID_OPCODE))

    def store_entry(self, gva: int, hpa: int) -> bool:
        """The guest stores to a page table that is watched; emulate that if it is one of the plain instructions
        that kernels use for it, and begins there (it could also have come over from the page before).
        """
        instruction = self.decoder.at(self.v)
        if (
            instruction is None
            or instruction.opcode not in PLAIN_STORES
            or instruction.operand_size != 4
            or instruction.lock
            or operand_address(self.v, instruction, instruction.operands[0]) != gva
        ):
            return False
        source: Operand = instruction.operands[1]
        value = source.value if source.kind == IMMEDIATE else self.cpu.general(source.number)
        self.v.paging.store_entry(hpa, value)
        trapping = self.cpu.trap_flag()
        self.cpu.set_eip(self.cpu.get_eip() + instruction.size & MASK_32)
        self.retire(trapping)
        return True

    def on_debug(self) -> None:
        """The guest's own trap flag; its EIP is at the next instruction.

        The trap takes no time of its own: it ends the instruction that was just counted, and no limit or
        deadline can come between the two.
        """
        self.v.debug[6] |= 1 << 14
        events.raise_fault(self.v, GuestFault(DEBUG))
        self.cpu.set_shadowed(False)

    def reflect(self) -> None:
        """An exception that is the guest's own business."""
        vector = self.vector()
        self.fault(GuestFault(vector, self.cpu.error_code() if vector in WITH_ERROR_CODE else 0))

    def vector(self) -> int:
        """The exception that the last exit was about."""
        return self.cpu.exit_code - VMEXIT_EXCEPTION

    def emulate(self) -> None:
        """#GP and its like, and what SVM intercepts: a privileged instruction, or the guest's own fault."""
        instruction = self.decoder.at(self.v)
        if instruction is None or instruction.handler is None:
            vector = self.vector()
            if vector in (10, 11, 12, 13) and (instruction is not None or not self.locked()):
                self.fault(GuestFault(vector, self.cpu.error_code()))
            else:
                self.fault(GuestFault(INVALID_OPCODE))
        else:
            self.carry_out(instruction)

    def locked(self) -> bool:
        """Has the instruction at CS:EIP a LOCK prefix? One that Capstone does not know must not have it."""
        raw = self.v.memory.fetch(self.v.paging.root, self.cpu.linear_eip())
        prefixes = raw.to_bytes(8, "little")
        return LOCK_PREFIX in prefixes[: 8 - len(prefixes.lstrip(PREFIXES))]

    def carry_out(self, instruction: Instruction) -> None:
        """Emulate one instruction; it counts as retired unless it faults."""
        v, cpu = self.v, self.cpu
        handler = instruction.handler
        assert handler is not None
        trapping = cpu.trap_flag()
        try:
            if not handler(v, instruction):
                cpu.set_eip(cpu.get_eip() + instruction.size & MASK_32)
        except GuestFault as fault:
            self.fault(fault)
            return
        self.retire(trapping and instruction.name not in ("int", "int3", "into", "int1"))

    def retire(self, trapping: bool) -> None:
        """An emulated instruction is complete. ``trapping``: was the guest's trap flag set when it began?"""
        self.count()
        self.cpu.set_shadowed(self.v.holding)
        self.v.holding = False
        if trapping:
            self.on_debug()

    # ---------------------------------------------------------------- events

    def fault(self, fault: GuestFault) -> None:
        """Deliver an exception to the guest."""
        if self.v.paging.loans:
            self.v.paging.return_loans()
        events.raise_fault(self.v, fault)
        self.count()

    def count(self) -> None:
        """An emulated instruction takes its time; so does the delivery of an event."""
        cpu = self.cpu
        cpu.set_retired(cpu.get_retired() + 1)
        cpu.set_shadowed(False)
