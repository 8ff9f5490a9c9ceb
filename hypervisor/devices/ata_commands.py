"""The commands of an ATA drive (ATA/ATAPI-6, chapter 8; their codes: annex E).

Each is a function of the drive and the command's code. It returns True if the command is over at once;
otherwise it has said itself what comes next. ``COMMANDS`` at the end is the whole table; what is not in
it is aborted.
"""

from __future__ import annotations

from collections.abc import Callable

from hypervisor.devices import ata_data
from hypervisor.devices.ata import BUSY, DEVICE_ALWAYS, DEVICE_HEAD, PASSED, READY, REQUEST, SEEK_DONE, Drive
from hypervisor.devices.ata_data import MULTIPLE_MAX, SELF_TEST_SIZE, SELF_TESTS_MAX
from hypervisor.devices.image import SECTOR

DATA_SET_MANAGEMENT, TRIM = 0x06, 0x01
CACHE_ENABLE, CACHE_DISABLE, TRANSFER_MODE = 0x02, 0x82, 0x03
REVERT_ENABLE, REVERT_DISABLE = 0xCC, 0x66
IGNORED_FEATURES = frozenset((0xAA, 0x55, 0x05, 0x85, 0x69, 0x67, 0x96, 0x9A, 0x42, 0xC2))
SMART_VALUES, SMART_THRESHOLDS, SMART_AUTOSAVE, SMART_TEST, SMART_LOG = 0xD0, 0xD1, 0xD2, 0xD4, 0xD5
SMART_ENABLE, SMART_DISABLE, SMART_STATUS = 0xD8, 0xD9, 0xDA


def execute(drive: Drive, code: int) -> None:
    """A byte is written to the command register."""
    if (drive.number and not drive.present) or drive.status & (BUSY | REQUEST):
        return
    handler = COMMANDS.get(code)
    if handler is None:
        drive.fail()
        return
    drive.status = READY | BUSY
    drive.error = 0
    if handler(drive, code):
        drive.status &= ~BUSY
        if code in SEEKING and not drive.error:
            drive.status |= SEEK_DONE
        drive.interrupt()


def refuse(drive: Drive) -> bool:
    drive.abort()
    return True


def nothing(drive: Drive, code: int) -> bool:
    return True


def read_sectors(drive: Drive, code: int) -> bool:
    """READ SECTORS and READ MULTIPLE."""
    block = drive.multiple if code in (0x29, 0xC4) else 1
    if not drive.present or not block:
        return refuse(drive)
    drive.set_count(extended=code in (0x24, 0x29))
    drive.block = block
    drive.read_block()
    return False


def write_sectors(drive: Drive, code: int) -> bool:
    """WRITE SECTORS and WRITE MULTIPLE."""
    block = drive.multiple if code in (0x39, 0xC5) else 1
    if not drive.present or not block:
        return refuse(drive)
    drive.set_count(extended=code in (0x34, 0x39))
    drive.block = block
    drive.status = READY | SEEK_DONE
    drive.start_transfer("write", bytes(min(drive.count, block) * SECTOR))
    return False


def move_by_dma(drive: Drive, code: int) -> bool:
    """There is nobody who would move the data."""
    if not drive.present or (code == DATA_SET_MANAGEMENT and drive.feature != TRIM):
        return refuse(drive)
    if code != DATA_SET_MANAGEMENT:
        drive.set_count(extended=code in (0x25, 0x35))
    drive.status = READY | SEEK_DONE | REQUEST
    return False


def verify(drive: Drive, code: int) -> bool:
    """READ VERIFY SECTORS: everything is readable, even what is not there."""
    drive.set_count(extended=code == 0x42)
    return True


def diagnose(drive: Drive, code: int) -> bool:
    """EXECUTE DEVICE DIAGNOSTIC; also the end of a software reset."""
    drive.sign()
    drive.device = DEVICE_ALWAYS
    drive.status = READY | SEEK_DONE
    drive.error = PASSED
    drive.interrupt()
    return False


def set_parameters(drive: Drive, code: int) -> bool:
    """INITIALIZE DEVICE PARAMETERS: the shape in which sectors are addressed from now on."""
    if not drive.present:
        return refuse(drive)
    drive.heads = (drive.device & DEVICE_HEAD) + 1
    drive.sectors = drive.count
    return True


def flush_cache(drive: Drive, code: int) -> bool:
    drive.flush()
    return False


def check_power(drive: Drive, code: int) -> bool:
    drive.count = 0xFF  # active
    return True


def freeze_lock(drive: Drive, code: int) -> bool:
    drive.count = 0
    return True


def read_native_max(drive: Drive, code: int) -> bool:
    if drive.disk is None:
        return refuse(drive)
    drive.set_count(extended=code == 0x27)
    drive.set_address(drive.disk.sectors - 1)
    return True


def set_multiple(drive: Drive, code: int) -> bool:
    count = drive.count & 0xFF
    if count and (count > MULTIPLE_MAX or drive.count & (drive.count - 1)):
        return refuse(drive)
    drive.multiple = count
    return True


def identify(drive: Drive, code: int) -> bool:
    if drive.disk is None:
        return refuse(drive)
    if not drive.identity:
        serial = f"QM{drive.number + 1:05}"
        shape = (drive.disk.sectors, drive.cylinders, drive.heads, drive.sectors)
        cache = drive.write_cache == 1
        drive.identity[:] = ata_data.identify(*shape, drive.multiple, serial, cache=cache)
    return drive.reply(bytes(drive.identity))


def set_word(drive: Drive, word: int, value: int) -> None:
    """Change what IDENTIFY says, once it has said it."""
    if drive.identity:
        drive.identity[2 * word : 2 * word + 2] = value.to_bytes(2, "little")


def set_features(drive: Drive, code: int) -> bool:
    if not drive.present:
        return refuse(drive)
    feature = drive.feature
    if feature == CACHE_ENABLE:
        drive.write_cache = 1
        set_word(drive, ata_data.WRITE_CACHE, ata_data.CACHE_ON)
        return True
    if feature == CACHE_DISABLE:
        drive.write_cache = 0
        set_word(drive, ata_data.WRITE_CACHE, ata_data.CACHE_OFF)
        drive.flush()
        return False
    if feature == TRANSFER_MODE:
        return set_transfer_mode(drive)
    if feature in (REVERT_ENABLE, REVERT_DISABLE):
        drive.reverts = 1 if feature == REVERT_ENABLE else 0
        return True
    return True if feature in IGNORED_FEATURES else refuse(drive)


def set_transfer_mode(drive: Drive) -> bool:
    """The count register says which; IDENTIFY shows it, and that is all."""
    kind, mode = drive.count >> 3, drive.count & 7
    kinds = {0: 0, 1: 0, 2: ata_data.SINGLE_DMA, 4: ata_data.MULTI_DMA, 8: ata_data.ULTRA_DMA}
    if kind not in kinds:
        return refuse(drive)
    for word, supported in ((ata_data.SINGLE_DMA, 7), (ata_data.MULTI_DMA, 7), (ata_data.ULTRA_DMA, 0x3F)):
        chosen = 1 << mode + 8 if word == kinds[kind] else 0
        set_word(drive, word, supported | chosen)
    return True


def smart(drive: Drive, code: int) -> bool:
    """SMART; the feature register says what of it."""
    function = drive.feature
    known = drive.cylinder_high == 0xC2 and drive.cylinder_low == 0x4F
    if not known or (not drive.smart and function != SMART_ENABLE):
        return refuse(drive)
    if function == SMART_VALUES:
        return drive.reply(ata_data.smart_values(autosave=drive.smart_autosave == 1))
    if function == SMART_THRESHOLDS:
        return drive.reply(ata_data.smart_thresholds())
    if function == SMART_AUTOSAVE and drive.sector in (0x00, 0xF1):
        drive.smart_autosave = 1 if drive.sector else 0
        return True
    if function == SMART_TEST and drive.sector <= 2:
        drive.self_tests = drive.self_tests % SELF_TESTS_MAX + 1
        at = 2 + (drive.self_tests - 1) * SELF_TEST_SIZE
        drive.self_test_log[at : at + 4] = bytes((drive.sector, 0x00, 0x34, 0x12))
        return True
    if function == SMART_LOG and drive.sector == 1:
        return drive.reply(ata_data.smart_error_log())
    if function == SMART_LOG and drive.sector == 6:
        return drive.reply(ata_data.smart_self_test_log(drive.self_tests, bytes(drive.self_test_log)))
    if function in (SMART_ENABLE, SMART_DISABLE):
        drive.smart = 1 if function == SMART_ENABLE else 0
        return True
    return True if function == SMART_STATUS else refuse(drive)


SEEKING = frozenset((0x10, 0x27, 0x40, 0x41, 0x42, 0x70, 0x91, 0x98, 0xB0, 0xC6, 0xE5, 0xEF, 0xF5, 0xF8))
"""Commands that leave the bit for "seek done" set."""

COMMANDS: dict[int, Callable[[Drive, int], bool]] = {
    **dict.fromkeys((0x20, 0x21, 0x24, 0x29, 0xC4), read_sectors),
    **dict.fromkeys((0x30, 0x31, 0x34, 0x39, 0x3C, 0xC5), write_sectors),
    **dict.fromkeys((DATA_SET_MANAGEMENT, 0x25, 0x35, 0xC8, 0xC9, 0xCA, 0xCB), move_by_dma),
    **dict.fromkeys((0x40, 0x41, 0x42), verify),
    # RECALIBRATE, SEEK; STANDBY, IDLE and SLEEP in all their forms
    **dict.fromkeys((0x10, 0x70), nothing),
    **dict.fromkeys((0x94, 0x95, 0x96, 0x97, 0x99, 0xE0, 0xE1, 0xE2, 0xE3, 0xE6), nothing),
    **dict.fromkeys((0x98, 0xE5), check_power),
    **dict.fromkeys((0xE7, 0xEA), flush_cache),
    **dict.fromkeys((0x27, 0xF8), read_native_max),
    0x90: diagnose,
    0x91: set_parameters,
    0xB0: smart,
    0xC6: set_multiple,
    0xEC: identify,
    0xEF: set_features,
    0xF5: freeze_lock,
}
"""Code -> what carries it out. All others are aborted."""
