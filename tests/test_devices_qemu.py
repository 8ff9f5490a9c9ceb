"""The devices against ``qemu-system-i386 -M isapc``: the same port accesses read the same values.

Scripts are pseudo-random with fixed seeds, so that a failure can be repeated. They keep away from what
QEMU 7.2 cannot do (16- and 32-bit accesses to the UART abort it) and from what this machine leaves out
(the Cirrus card's own registers, A20 wrapping, a real reset).
"""

from __future__ import annotations

import random

import pytest
from port_script import (
    MISSING,
    Step,
    build_kernel,
    delay,
    differences,
    indexed,
    play_here,
    play_on_qemu,
    read,
    window,
    write,
)

pytestmark = [pytest.mark.qemu, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

SEEDS = range(4)
# Mode 1 leaves IRQ 0 high for good, so that the timer plays no part where time is not the subject.
QUIET_TIMER = [write(0x43, 0x32), write(0x40, 0xFF), write(0x40, 0xFF)]
BOTH_PICS_AT_0X20 = [
    write(port, value)
    for port, value in (
        *((0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01)),
        *((0xA0, 0x11), (0xA1, 0x28), (0xA1, 0x02), (0xA1, 0x01)),
    )
]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    return build_kernel(tmp_path_factory.mktemp("port-script"))


def compare(kernel, script: list[Step]) -> None:
    assert differences(script, play_here(script), play_on_qemu(kernel, script)) == []


def test_a_kernel_finds_the_registers_as_the_firmware_leaves_them(kernel):
    time_and_alarm = range(10)
    script = [
        step
        for index in range(128)
        if index not in (*time_and_alarm, 0x32, 0x37)
        for step in indexed(0x70, index)
    ]
    script += [read(port) for port in (*range(0x10), 0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x43, 0x64, 0x60)]
    script += [read(port) for port in (*range(0x80, 0x93), *range(0xC0, 0xE0), 0xF0, 0xF4, 0x100, 0x200)]
    script += [read(port) for port in (*range(0x3B0, 0x3C6), *range(0x3C7, 0x3E0), *range(0x3F8, 0x400))]
    for index_port, count in ((0x3D4, 0x19), (0x3C4, 5), (0x3CE, 9)):
        script += [step for index in range(count) for step in indexed(index_port, index)]
    for index in range(21):
        script += [read(0x3DA), write(0x3C0, index | 0x20), read(0x3C1)]
    script += [write(0x3C7, 0), *[read(0x3C9)] * 768]
    script += [write(0x20, 0x0B), read(0x20), write(0xA0, 0x0B), read(0xA0)]
    for command in (0x20, 0xD0, 0xC0, 0xA9, 0xAB, 0xAA):
        script += [write(0x64, command), read(0x64), read(0x60), read(0x64)]
    compare(kernel, script)


def test_wide_accesses_are_split_as_on_qemu(kernel):
    script = [write(0x43, 0xB0), write(0x42, 0xFF), write(0x42, 0xFF)]  # OUT of channel 2 stays low for long
    script += [write(0x70, 0x10)]
    ports = (*range(0x40), *range(0x43, 0x44), *range(0x50, 0x74), *range(0x78, 0xF5), *range(0x100, 0x110))
    ports += (*range(0x3B0, 0x3BD), *range(0x3D0, 0x3E0), *range(0x4C8, 0x4D8))
    script += [read(port, size) for size in (2, 4) for port in ports]
    for port, value in ((0x20, 0x5511), (0x21, 0x0420), (0x3D4, 0x120E), (0x3CE, 0x0507), (0x81, 0x1234)):
        script += [write(port, value, 2), read(port), read(port + 1), read(port, 2)]
    compare(kernel, script)


def drive_lines(rng: random.Random) -> list[Step]:
    """Make IRQ 4 (UART), 1 (keyboard) or 12 (mouse) move."""
    kind = rng.randrange(6)
    if kind < 2:
        return [write(0x3F9, rng.choice((0, 2, 2, 0)))]
    if kind < 5:
        return [write(0x64, 0xD3 if kind == 4 else 0xD2), write(0x60, rng.randrange(256))]
    return [read(0x60)]


def initialize_pic(rng: random.Random) -> list[Step]:
    port, icw1 = rng.choice((0x20, 0xA0)), 0x10 | rng.randrange(16)
    script = [write(port, icw1), write(port + 1, rng.randrange(256))]
    if not icw1 & 2:
        script.append(write(port + 1, rng.randrange(256)))
    if icw1 & 1:
        script.append(write(port + 1, rng.choice((1, 1, 3, 0x11, 0x13, rng.randrange(256)))))
    return script


def program_pic(rng: random.Random) -> list[Step]:
    kind, command = rng.randrange(10), rng.choice((0x20, 0xA0))
    if kind < 3:
        return [read(rng.choice((0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1)))]
    if kind == 3:
        return initialize_pic(rng)
    if kind < 6:
        return [write(command + 1, rng.randrange(256))]
    if kind < 8:
        return [write(command, rng.randrange(8) << 5 | rng.randrange(8))]
    if kind == 8:
        return [write(command, rng.choice((0x08, 0x0A, 0x0B, 0x0C, 0x48, 0x68, 0x6A)))]
    return [write(rng.choice((0x4D0, 0x4D1)), rng.randrange(256))]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_8259s_hold_the_same_registers_under_random_programming(kernel, seed):
    rng = random.Random(f"pic {seed}")
    script = [*QUIET_TIMER, *BOTH_PICS_AT_0X20, write(0x64, 0x60), write(0x60, 0x43)]
    for _ in range(800):
        script += program_pic(rng) if rng.random() < 0.6 else drive_lines(rng)
    compare(kernel, script)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_interrupts_are_taken_in_the_same_order(kernel, seed):
    rng = random.Random(f"interrupts {seed}")
    script = [*QUIET_TIMER, *BOTH_PICS_AT_0X20, write(0x64, 0x60), write(0x60, 0x43)]
    script += [write(0x21, 0x01), write(0xA1, 0x01)]
    for _ in range(800):
        kind, command = rng.random(), rng.choice((0x20, 0xA0))
        if kind < 0.4:
            script += drive_lines(rng)
        elif kind < 0.6:
            script.append(window())
        elif kind < 0.8:
            script.append(
                write(command, rng.choice((0x20, 0x20, 0x20, 0x61, 0x64, 0x62, 0xA0, 0xC1, 0x0B, 0x0A)))
            )
        elif kind < 0.9:
            script.append(read(command))
        else:
            script.append(write(command + 1, rng.choice((0x01, 0x01, 0x11, 0x03, 0x13, 0x05))))
    assert {0x21, 0x24, 0x2C} <= set(play_here(script)), "the script should reach all three devices"
    compare(kernel, script)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_uart_reads_the_same_under_random_programming(kernel, seed):
    rng = random.Random(f"uart {seed}")
    script: list[Step] = [*QUIET_TIMER, *BOTH_PICS_AT_0X20]
    for _ in range(800):
        offset = rng.randrange(8)
        port = 0x3F8 + offset
        if rng.random() < 0.5:
            script.append(read(port))
        elif offset == 0:
            script += [write(port, rng.randrange(256)) for _ in range(rng.choice((1, 1, 3, 20)))]
        else:
            special = {
                2: (0, 1, 7, 0x41, 0xC1, 0x81, 0xC7, 6, 2, 4, 0xCF),
                3: (3, 3, 3, 0x83, 0x1B),
                4: (0x10, 0x1B, 0x0B),
            }
            script.append(write(port, rng.choice((*special.get(offset, ()), rng.randrange(256)))))
        if rng.random() < 0.1:
            script.append(read(0x20))
    here, there = play_with_time(kernel, script)  # what was received times out after four characters
    assert differences(script, here, there) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_the_keyboard_controller_answers_the_same_under_random_programming(kernel, seed):
    rng = random.Random(f"i8042 {seed}")
    keyboard = (0xED, 0xEE, 0xF0, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xFF, 0, 1, 2, 3, 5, 0xFA, 0xFC)
    mouse = (0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xEB, 0xEC, 0xEE, 0xF0, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xFF)
    controller = (
        0x20,
        0x60,
        0xA7,
        0xA8,
        0xA9,
        0xAA,
        0xAB,
        0xAD,
        0xAE,
        0xC0,
        0xD0,
        0xD1,
        0xD2,
        0xD3,
        0xD4,
        0xDF,
        0xFF,
        0xF1,
    )
    script: list[Step] = [*QUIET_TIMER, *BOTH_PICS_AT_0X20]
    for _ in range(600):
        kind = rng.random()
        if kind < 0.4:
            script.append(read(0x60 if kind < 0.25 else 0x64))
        elif kind < 0.6:
            script.append(write(0x60, rng.choice((*keyboard, rng.randrange(256)))))
        elif kind < 0.8:
            command = rng.choice((*controller, rng.randrange(0xD0)))
            script.append(write(0x64, command))
            if command == 0xD1:  # neither reset nor close the A20 gate
                script.append(write(0x60, rng.randrange(256) | 3))
            elif command == 0xD4:
                script.append(write(0x60, rng.choice((*mouse, rng.randrange(256)))))
                if rng.random() < 0.2:  # what makes it tell that it has a wheel, or five buttons
                    rates = rng.choice(((200, 100, 80), (200, 200, 80), (200, 80)))
                    to_mouse = [byte for rate in rates for byte in (0xF3, rate)] + [0xF2, 0xEB]
                    script += [step for byte in to_mouse for step in (write(0x64, 0xD4), write(0x60, byte))]
            elif rng.random() < 0.7:
                script.append(write(0x60, rng.randrange(256)))
        elif kind < 0.9:
            script += [read(0x20), read(0xA0)]
        elif kind < 0.95:
            script += [write(0x92, rng.randrange(256) & 0xFE | 2), read(0x92)]
        else:
            script += BOTH_PICS_AT_0X20
    compare(kernel, script)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_dma_registers_read_the_same_under_random_programming(kernel, seed):
    rng = random.Random(f"dma {seed}")
    script: list[Step] = []
    for _ in range(1000):
        port = rng.choice((rng.randrange(0x10), rng.randrange(0x80, 0x90), rng.randrange(0xC0, 0xE0)))
        if rng.random() < 0.5:
            script.append(read(port, rng.choice((1, 1, 1, 2, 4))))
        elif port not in (0x09, 0xD2, 0xD3):  # a software request would start a transfer
            script.append(write(port, rng.randrange(256)))
    compare(kernel, script)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_vga_registers_read_the_same_under_random_programming(kernel, seed):
    rng = random.Random(f"vga {seed}")
    indexes = {0x3B4: 0x19, 0x3D4: 0x19, 0x3C4: 5, 0x3CE: 9}
    script: list[Step] = []
    for _ in range(1000):
        port = rng.randrange(0x3B0, 0x3E0)
        if port == 0x3C6:
            continue  # the Cirrus DAC hides a register there
        if rng.random() < 0.5:
            script.append(read(port, 1 if 0x3C3 <= port <= 0x3C6 else rng.choice((1, 1, 1, 2, 4))))
        elif port in indexes:
            script.append(write(port, rng.randrange(indexes[port])))
        elif port - 1 in indexes and rng.random() < 0.5:
            script.append(write(port - 1, rng.randrange(indexes[port - 1]) | rng.randrange(256) << 8, 2))
        else:
            script.append(write(port, rng.randrange(256)))
    compare(kernel, script)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cmos_reads_the_same_under_random_programming(kernel, seed):
    rng = random.Random(f"cmos {seed}")
    script: list[Step] = []
    for _ in range(600):
        index = rng.choice((1, 3, 5, 13, *range(14, 0x32), *range(0x33, 0x37), *range(0x38, 0x80)))
        script += [write(0x70, index | rng.choice((0, 0x80))), read(0x70)]
        script.append(read(0x71) if rng.random() < 0.5 else write(0x71, rng.randrange(256)))
    compare(kernel, script)


SHIFT = 3
"""QEMU's -icount: an instruction takes 2**SHIFT nanoseconds of virtual time."""


def play_with_time(kernel, script: list[Step]) -> tuple[list[int], list[int]]:
    there = play_on_qemu(
        kernel, script, "-icount", f"shift={SHIFT},sleep=off", "-rtc", "base=2000-01-01T00:00:00,clock=vm"
    )
    return play_here(script, instruction_time=1 << SHIFT), there


@pytest.mark.parametrize("seed", SEEDS)
def test_the_time_of_day_is_set_and_shown_alike_in_every_format(kernel, seed):
    rng = random.Random(f"date {seed}")
    script: list[Step] = []
    for _ in range(40):
        binary, day24 = rng.choice((0, 4)), rng.choice((0, 2))
        moment = {
            0: rng.randrange(50),
            2: rng.randrange(60),
            7: rng.randrange(1, 32),
            8: rng.randrange(1, 13),
        }
        year = rng.randrange(1970, 2200)  # before 1970, QEMU rounds to the wrong second
        moment |= {9: year % 100, 0x32: year // 100}
        hour = rng.randrange(24)
        encoded = {
            index: value if binary else value // 10 << 4 | value % 10 for index, value in moment.items()
        }
        shown = hour if day24 else hour % 12 or 12
        encoded[4] = (shown if binary else shown // 10 << 4 | shown % 10) | (
            0x80 if not day24 and hour >= 12 else 0
        )
        script += [write(0x70, 0x0B), write(0x71, 0x80 | binary | day24)]
        for index, value in encoded.items():
            script += [write(0x70, index), write(0x71, value)]
        script += [write(0x70, 0x0B), write(0x71, binary | day24)]
        script += [step for index in (0, 2, 4, 6, 7, 8, 9, 0x32, 0x37) for step in indexed(0x70, index)]
    here, there = play_with_time(kernel, script)  # with the host's clock, a second could begin any time
    assert differences(script, here, there) == []


@pytest.mark.parametrize("mode", range(6))
@pytest.mark.parametrize("count", [2, 1000, 0x1234, 0])
def test_timers_count_at_the_speed_and_in_the_pattern_of_qemu(kernel, mode, count):
    script = [
        write(0x61, 1),
        write(0x43, 0xB0 | mode << 1),
        write(0x42, count & 0xFF),
        write(0x42, count >> 8),
    ]
    for pause in (1, 10, 1000, 5000, 20_000, 300_000, 1_000_000):
        script += [delay(pause), write(0x43, 0x80), read(0x42), read(0x42)]
    here, there = play_with_time(kernel, script)
    span = (count or 0x10000) if mode in (2, 3) else 0x10000

    def counts(values: list[int]) -> list[int]:
        return [low | high << 8 for low, high in zip(values[::2], values[1::2], strict=True)]

    for ours, theirs in zip(counts(here), counts(there), strict=True):
        apart = (ours - theirs) % span
        assert min(apart, span - apart) <= (4 if mode == 3 else 2), (counts(here), counts(there))


@pytest.mark.parametrize("mode", [0, 1, 2, 3, 4, 5])
def test_timer_interrupts_come_as_on_qemu(kernel, mode):
    """11932 ticks are 10 ms; the script looks at IRR in the middle between the edges."""
    script = [*BOTH_PICS_AT_0X20, write(0x43, 0x30 | mode << 1), write(0x40, 0x9C), write(0x40, 0x2E)]
    script += [window(), write(0x20, 0x20), read(0x20), delay(312_500)]  # 5 ms
    for _ in range(4):
        script += [read(0x20), window(), window(), write(0x20, 0x20), delay(625_000)]  # 10 ms
    # Reprogrammed in the middle of a period
    script += [
        write(0x40, 0x4E),
        write(0x40, 0x17),
        delay(156_250),
        read(0x20),
        delay(312_500),
        read(0x20),
        window(),
    ]
    here, there = play_with_time(kernel, script)
    assert differences(script, here, there) == []


def test_the_speaker_gate_restarts_channel_2_and_its_output_shows(kernel):
    script = []
    for mode in (0, 1, 2, 3, 4, 5):
        script += [write(0x61, 0), write(0x43, 0xB0 | mode << 1), write(0x42, 0x9C), write(0x42, 0x2E)]
        script += [
            delay(312_500),
            read(0x61),
            write(0x61, 3),
            delay(156_250),
            read(0x61),
            delay(312_500),
            read(0x61),
        ]
        script += [delay(400_000), read(0x61), write(0x43, 0xE8), read(0x42), read(0x43)]
    here, there = play_with_time(kernel, script)
    assert differences(script, here, there) == []


def test_the_receive_timeout_comes_after_four_characters(kernel):
    """In loopback, at 9600 baud, 8N1: 4.17 ms."""
    script = [write(0x3FB, 0x83), write(0x3F8, 12), write(0x3F9, 0), write(0x3FB, 3), write(0x3FA, 0xC7)]
    script += [write(0x3FC, 0x1B), write(0x3F9, 1), write(0x3F8, 0x41), write(0x3F8, 0x42)]
    script += [delay(230_000), read(0x3FA), delay(60_000), read(0x3FA), read(0x3F8), read(0x3FA)]
    script += [delay(230_000), read(0x3FA), delay(60_000), read(0x3FA), read(0x3F8), read(0x3FA), read(0x3FD)]
    here, there = play_with_time(kernel, script)
    assert differences(script, here, there) == []
    assert here.count(0xCC) == 2


def test_the_clock_interrupts_at_the_rate_at_the_alarm_and_at_every_update(kernel):
    def cmos(index: int, value: int) -> list[Step]:
        return [write(0x70, index), write(0x71, value)]

    flags = indexed(0x70, 0x0C)
    second = 62_500_000  # rounds of a delay; the script never looks within 0.1 s of an edge
    script = [*QUIET_TIMER, *BOTH_PICS_AT_0X20, write(0x21, 0xFB), write(0xA1, 0xFE)]
    script += [*cmos(0x0B, 0x82), *cmos(0, 0x57), *cmos(2, 0x59), *cmos(4, 0x23), *cmos(0x0B, 0x02), *flags]
    script += [*cmos(0x0A, 0x2F), *cmos(0x0B, 0x42), *flags]  # periodic at 2 Hz
    for _ in range(3):
        script += [
            delay(second // 4),
            window(),
            write(0xA0, 0x20),
            write(0x20, 0x20),
            *flags,
            *indexed(0x70, 0),
        ]
    script += [*cmos(0x0B, 0x12), *flags]  # at every update
    for _ in range(2):
        script += [
            delay(second),
            window(),
            window(),
            write(0xA0, 0x20),
            write(0x20, 0x20),
            *flags,
            *indexed(0x70, 0),
        ]
    script += [*cmos(1, 0x02), *cmos(3, 0xC0), *cmos(5, 0xC0), *cmos(0x0B, 0x22), *flags]  # at second 2
    for _ in range(3):
        script += [delay(second), window(), write(0xA0, 0x20), write(0x20, 0x20), *flags]
        script += [step for index in (0, 2, 4, 7) for step in indexed(0x70, index)]
    here, there = play_with_time(kernel, script)
    assert differences(script, here, there) == []
    assert here.count(0x28) >= 4
