"""What a migration did can be read while it goes on, kept, and drawn."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from live_move import PATIENT, Runner, move
from owned_machine import Ledger, OwnedMachine, source_machine
from scripted_guest import boot

from hypervisor.cli import main as cli
from hypervisor.errors import HostError, StateError
from hypervisor.machine import VirtualMachine
from hypervisor.migration import Listener, Report, SendError, send
from hypervisor.migration.plot import svg
from hypervisor.migration.policy import FixedRounds, PreCopyPolicy
from hypervisor.migration.recorder import heat
from hypervisor.migration.report import COLUMNS, Part, Round, read_report
from hypervisor.repl import machines
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.session import Session

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report() -> Report:
    with boot() as vm:
        vm.run(until=1_000_000)
        arrived, report = move(vm, 5_000_000, policy=FixedRounds(3))
        arrived.close()
    return report


def test_rounds_and_downtime_add_up(report: Report) -> None:
    assert [one.number for one in report.rounds] == [1, 2, 3]
    pages = report.ram.total // 4096
    first = report.rounds[0]
    assert first.pages + first.skipped == pages
    for one in report.rounds:
        mix = one.encodings
        assert mix.zero + mix.normal + mix.delta + mix.copied + mix.unchanged == one.pages
        assert sum(one.heat) == one.dirty_pages
        assert len(one.heat) == COLUMNS
        assert one.time > 0
    assert all(
        before.start + before.time <= after.start + 0.01
        for before, after in zip(report.rounds, report.rounds[1:], strict=False)
    )
    assert sum(one.bytes for one in report.rounds) <= report.ram.precopy_bytes
    assert list(report.downtime_parts) == [*Part]
    assert sum(report.downtime_parts.values()) <= report.downtime + 0.01  # each is rounded
    assert report.stop_reason == "3 rounds were asked for"


def test_heat_counts_every_page_once() -> None:
    assert heat(bytes(10)) == [0] * COLUMNS
    for pages in (10, 256, 1000, 32768):
        assert sum(heat(b"\1" * pages)) == pages
    marks = bytearray(1024)
    marks[5] = marks[6] = marks[1023] = 1
    assert {n: count for n, count in enumerate(heat(marks)) if count} == {1: 2, 255: 1}


def test_it_is_live_while_the_guest_is_copied(tmp_path: Path) -> None:
    """Progress is told, and the file is rewritten, after each round; not only at the end."""
    path = tmp_path / "report.json"
    seen: list[tuple[str, int]] = []
    ledger = Ledger()
    report = Report()

    class Watching:
        def decide(self, rounds):
            assert read_report(path).status == ("setup" if not rounds else "active")
            seen.append((report.status, len(read_report(path).rounds)))
            return FixedRounds(3).decide(rounds)

    with Listener("tcp::0", timeouts=PATIENT) as listener:
        receiver = threading.Thread(
            target=lambda: listener.receive(lambda config: OwnedMachine(config, ledger, "there"))
        )
        receiver.start()
        with machines.migration_progress("", report, None, path) as tell:
            report.status = "setup"
            report.write(path)
            send(
                source_machine(ledger),
                listener.address,
                policy=Watching(),
                progress=tell,
                report=report,
                timeouts=PATIENT,
            )
        receiver.join()
    assert seen == [("active", 0), ("active", 1), ("active", 2), ("active", 3)]


def test_a_report_comes_back_from_its_file(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    plain = msgspec.json.decode((tmp_path / "report.json").read_bytes())
    assert {"total-time", "downtime", "expected-downtime", "setup-time", "xbzrle-cache"} <= plain.keys()
    assert {"dirty-sync-count", "dirty-pages-rate", "downtime-bytes", "mbps"} <= plain["ram"].keys()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rounds": 3}', '{"status": "odd"}', "\xff", "[" * 100000])
def test_what_is_no_report_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(StateError) as caught:
        read_report(path)
    assert "no report of a migration" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_report_that_cannot_be_written_stops_a_migration_before_it_begins(tmp_path: Path) -> None:
    with (
        pytest.raises(HostError, match="cannot write the report"),
        machines.migration_progress("", Report(), None, tmp_path / "nosuch" / "report.json"),
    ):
        pytest.fail("it began")


# ---------------------------------------------------------------------------------------- the picture


def test_the_picture_shows_every_round(report: Report) -> None:
    picture = ET.fromstring(svg(report))
    told = [title.text or "" for title in picture.iter(f"{SVG}title")]
    assert [line.partition(":")[0] for line in told] == ["round 1", "round 2", "round 3"]
    assert any("downtime" in (text.text or "") for text in picture.iter(f"{SVG}text"))


def test_the_picture_of_the_strangest_report_is_still_one() -> None:
    strange = Report(rounds=[Round(number=n, heat=[10**9] * 500, page_size=0) for n in range(200)])
    strange.stop_reason = "<&>"
    strange.ram.page_size = 0
    ET.fromstring(svg(strange))
    with pytest.raises(StateError, match="no rounds"):
        svg(Report())


def test_plot_draws_beside_the_report(report: Report, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    report.write(tmp_path / "report.json")
    assert cli.main(["plot", "report.json"]) == 0
    assert capsys.readouterr().out == "report.svg\n"
    assert cli.main(["plot", "report.json", "-o", "other.svg"]) == 0
    assert Path("other.svg").read_text() == Path("report.svg").read_text()
    for wrong in (
        ["plot"],
        ["plot", "nosuch.json"],
        ["plot", "report.svg"],
        ["plot", "report.json", "-o", "/"],
    ):
        assert cli.main(wrong) in (1, 2)
        complaint = capsys.readouterr().err
        assert complaint.startswith("hv: ")
        assert complaint.count("\n") == 1


# ---------------------------------------------------------------------------------------- at the prompt


def test_at_the_prompt_a_running_guest_is_moved_and_its_report_kept(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    session = Session(boot())
    prompt = Prompt(session, out=io.StringIO())
    arrived: list[VirtualMachine] = []
    with Listener("tcp::0", timeouts=PATIENT) as listener:
        receiver = threading.Thread(
            target=lambda: arrived.append(listener.receive(VirtualMachine.create, timeout=60))
        )
        receiver.start()
        prompt.execute("policy most-rounds 2")
        prompt.execute("run &")
        prompt.execute(f"migrate {listener.address} {path}")
        receiver.join()
    said = prompt.out.getvalue()
    assert f"at {listener.address}: " in said
    assert prompt.state() == "(hv: no guest) "
    report = read_report(path)
    assert report.status == "completed"
    assert report.rounds
    with arrived[0] as vm, Runner(vm):
        vm.request_stop()
    session.close()


def test_the_policy_is_shown_and_set() -> None:
    prompt = Prompt(Session(), out=io.StringIO())

    def say(line: str) -> str:
        prompt.out.seek(0)
        prompt.out.truncate()
        prompt.execute(line)
        return prompt.out.getvalue()

    assert "downtime-limit  30 ms" in say("policy")
    assert "downtime-limit  5 ms" in say("policy downtime-limit 5")
    assert "rate            10,000,000 bytes/s" in say("policy rate 10m")
    assert prompt.policy == PreCopyPolicy(downtime_limit=0.005, rate=10_000_000)
    assert "rate            off" in say("policy rate off")
    for wrong in (
        "policy x 1",
        "policy rate",
        "policy rate 3",
        "policy most-rounds 0",
        "policy most-rounds x",
    ):
        assert say(wrong).startswith("error: ")
        assert say(wrong).count("\n") == 1
    assert prompt.policy == PreCopyPolicy(downtime_limit=0.005)


def test_the_report_speaks_qemus_language() -> None:
    ledger = Ledger()
    seen: list[tuple[int, int]] = []
    report = Report()
    there = Report()
    with Listener("tcp::0", timeouts=PATIENT) as listener:
        thread = threading.Thread(
            target=lambda: listener.receive(
                lambda config: OwnedMachine(config, ledger, "there"), report=there
            )
        )
        thread.start()
        answer = send(
            source_machine(ledger),
            listener.address,
            policy=FixedRounds(2),
            report=report,
            progress=lambda *call: seen.append(call),
        )
        thread.join()
    assert answer is report
    assert seen[-1] == (1 << 20, 1 << 20)
    plain = msgspec.json.decode(report.to_json())
    assert plain["status"] == "completed"
    assert {"total-time", "downtime", "setup-time", "ram", "phases"} <= plain.keys()
    assert plain["ram"]["total"] == 1 << 20
    # All pages, of which six are full; what was written to during each round, and until the guest stopped,
    # of that two pages as deltas against what they were a round before.
    assert (plain["ram"]["duplicate"], plain["ram"]["normal"]) == (250, 6 + 3 + 2)
    assert plain["xbzrle-cache"]["pages"] == 2
    assert plain["rounds"][1]["encodings"] == {
        "zero": 0,
        "normal": 3,
        "delta": 0,
        "copied": 0,
        "unchanged": 0,
    }
    assert sum(plain["rounds"][0]["heat"]) == 3
    assert plain["rounds"][0]["heat"][5] == plain["rounds"][0]["heat"][255] == 1
    assert plain["ram"]["precopy-bytes"] + plain["ram"]["downtime-bytes"] == plain["ram"]["transferred"]
    assert list(plain["downtime-parts"]) == [*Part]
    assert sum(plain["downtime-parts"].values()) == pytest.approx(plain["downtime"], abs=5)
    assert plain["ram"]["normal-bytes"] == 11 * 4096 < plain["ram"]["transferred"]
    assert [one["pages"] for one in plain["rounds"]] == [256, 3]
    assert [one["dirty-pages"] for one in plain["rounds"]] == [3, 3]
    assert plain["stop-reason"] == "2 rounds were asked for"
    assert plain["ram"]["dirty-sync-count"] == 3
    assert plain["ram"]["remaining"] == 0
    assert plain["total-time"] >= plain["downtime"] > 0
    assert list(plain["phases"]) == [
        "setup",
        "configuration",
        "memory",
        "stop",
        "final-state",
        "prepared",
        "commit",
    ]
    assert there.status == "completed"
    assert (there.ram.normal, there.xbzrle_cache.pages) == (11, 2)
    assert there.ram.dirty_sync_count == 3


def test_the_report_of_a_failure_says_why() -> None:
    report = Report()
    with Listener("tcp::0") as listener:
        address = listener.address
    with pytest.raises(SendError):
        send(source_machine(Ledger()), address, report=report)
    assert report.status == "failed"
    assert "refused" in str(report.error_desc)
