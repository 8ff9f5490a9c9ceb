"""The virtual CPU as plain data, and back.

What is saved is what the guest believes to have, whatever ring it really ran in, so that another
technique can take it over.
"""

from __future__ import annotations

from hypervisor.errors import StateError
from hypervisor.hardware.x86 import CR0_PE, CR0_PG, NT, RF, TF, VM
from hypervisor.monitor.vcpu import Hidden, VirtualCpu
from hypervisor.state.model import CpuState, DescriptorTable, Segment

UNUSABLE = 1 << 16
HIGH_BITS = 0x00F0FF00
KNOWN_FLAGS = 0x3F7FD7
FCW_SIZE = 512


def attributes_of(high: int) -> int:
    """Access rights (see model.Segment) from the second word of a descriptor."""
    return high >> 8 & 0xFF | (high >> 20 & 0xF) << 12 if high & HIGH_BITS else UNUSABLE


def high_of(attributes: int) -> int:
    """The second word of a descriptor, without base and limit, from access rights."""
    return 0 if attributes & UNUSABLE else (attributes & 0xFF) << 8 | (attributes >> 12 & 0xF) << 20


def _segment(selector: int, base: int, limit: int, high: int) -> Segment:
    return Segment(selector, base, limit, attributes_of(high))


def capture_cpu(v: VirtualCpu) -> CpuState:
    """The state of a CPU that is stopped; nothing changes."""
    return CpuState(
        general=tuple(v.cpu.general(n) for n in range(8)),  # type: ignore[arg-type]
        eip=v.cpu.get_eip(),
        eflags=v.eflags,
        segments=tuple(_segment(*v.segment(n)) for n in range(6)),  # type: ignore[arg-type]
        ldtr=_segment(v.ldtr.selector, v.ldtr.base, v.ldtr.limit, v.ldtr.high),
        tr=_segment(v.tr.selector, v.tr.base, v.tr.limit, v.tr.high),
        gdtr=DescriptorTable(v.gdt_base, v.gdt_limit),
        idtr=DescriptorTable(v.idt_base, v.idt_limit),
        cr0=v.cr0,
        cr2=v.cr2,
        cr3=v.cr3,
        cr4=v.cr4,
        debug=tuple(v.debug),  # type: ignore[arg-type]
        fpu=v.cpu.save_fpu(),
        msrs=dict(v.msrs),
        halted=v.halted,
        interrupt_shadow=v.shadowed(),
    )


def check_cpu(state: CpuState) -> None:
    """Raise StateError naming the field that no processor could hold."""
    if not state.cr0 & CR0_PE:
        raise StateError("cpu.cr0: real mode is not supported")
    if state.eflags & ~(KNOWN_FLAGS | TF | NT | RF | VM) or not state.eflags & 2:
        raise StateError(f"cpu.eflags: {state.eflags:#x} has reserved bits set, or bit 1 clear")
    rings = {(segment.attributes >> 5) & 3 for segment in (state.segments[2],)}
    if not state.eflags & VM and state.segments[1].selector & 3 not in rings:
        raise StateError("cpu.segments: the privilege levels of CS and SS differ")


def restore_cpu(v: VirtualCpu, state: CpuState) -> None:
    """Make a stopped CPU what ``state`` says; RAM must be there already."""
    check_cpu(state)
    v.cpl = 3 if state.eflags & VM else state.segments[1].selector & 3
    v.eflags = state.eflags
    for n in range(8):
        v.cpu.set_general(n, state.general[n])
    v.cpu.set_eip(state.eip)
    for n, segment in enumerate(state.segments):
        v.set_segment(n, segment.selector, segment.base, segment.limit, high_of(segment.attributes))
    for name in ("ldtr", "tr"):
        segment = getattr(state, name)
        hidden = Hidden(segment.selector, segment.base, segment.limit, high_of(segment.attributes))
        setattr(v, name, hidden)
    v.gdt_base, v.gdt_limit = state.gdtr.base, state.gdtr.limit
    v.idt_base, v.idt_limit = state.idtr.base, state.idtr.limit
    v.cr2 = state.cr2
    v.debug = list(state.debug)
    v.msrs = dict(state.msrs)
    v.halted = state.halted
    v.cpu.set_shadowed(state.interrupt_shadow)
    v.cpu.load_fpu(state.fpu)
    v.set_control(state.cr0, state.cr3, state.cr4)


__all__ = ["CR0_PG", "capture_cpu", "check_cpu", "restore_cpu"]
