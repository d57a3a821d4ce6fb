"""Load by others: counted, waited for, answered by a repetition, marked. The machine is invented: it tells what others use each time the clock goes on."""

import subprocess
import sys
import threading
import time

import pytest
from torch import nn

from rtseg.core.errors import ConfigError
from rtseg.core.load import (
    LoadRecord,
    LoadWatch,
    Reading,
    busy_text,
    cores_taken,
    in_stretches,
    longest_wait,
    measure_watched,
    read_load,
)
from rtseg.core.values import Latency
from rtseg.latency.measuring import measure_latency
from rtseg.latency.parts import measure_end_to_end
from rtseg.runtimes.runtimes import load_runtime


class Machine:
    """Others use what `taken` lists, one number (cores of two) for each step of the clock; own work does not count."""

    def __init__(self, *taken, cores=2):
        self.taken, self.cores, self.now, self.worked, self.own = list(taken), cores, 0.0, 0.0, 0.0

    def read(self):
        return Reading(self.now, self.worked, self.own, self.cores)

    def sleep(self, seconds):
        self.now, self.worked = self.now + seconds, self.worked + seconds * (self.taken.pop(0) if self.taken else 0.0)

    def work(self, seconds):
        """A second of one's own on all cores that others leave."""
        left = (self.cores - (self.taken[0] if self.taken else 0.0)) * seconds
        self.own, self.worked = self.own + left, self.worked + left
        self.sleep(seconds)
        return self.now

    def watch(self, **options):
        return LoadWatch(**{"wait_s": 30.0} | options, read=self.read, clock=lambda: self.now, sleep=self.sleep)


# ---- counters


@pytest.mark.parametrize("worked, own, taken", [(1.0, 0.0, 2.0), (1.0, 1.0, 0.0), (0.75, 0.5, 0.5), (0.1, 0.3, 0.0)])
def test_own_work_is_not_the_others_load(worked, own, taken):
    assert cores_taken(Reading(5.0, 10.0, 3.0, 2), Reading(5.5, 10.0 + worked, 3.0 + own, 2)) == pytest.approx(taken)


def test_two_readings_at_once_say_nothing():
    assert cores_taken(Reading(5.0, 1.0, 0.0, 2), Reading(5.0, 9.0, 0.0, 2)) == 0.0


@pytest.mark.parametrize(
    "taken, cores, word",
    [(0.0, 2, "quiet"), (0.19, 2, "quiet"), (0.21, 2, "busy"), (1.0, 64, "quiet"), (20.0, 64, "busy")],
)
def test_a_tenth_of_the_cores_is_busy(taken, cores, word):
    assert busy_text(taken, cores).startswith(word)


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_threads_and_children_are_ones_own():
    before = read_load()
    thread = threading.Thread(target=spin, args=(0.2,))
    thread.start()
    thread.join()
    between = read_load()
    done = "import time\nwhile time.process_time() < 0.4: pass"
    subprocess.run([sys.executable, "-c", done], check=True)
    after_end = read_load()
    alive = subprocess.Popen(
        [sys.executable, "-c", f"{done}\nprint('worked', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert alive.stdout.readline().strip() == b"worked"
    beside = read_load()
    alive.communicate(b"\n")
    assert between.own - before.own >= 0.15
    assert after_end.own - between.own >= 0.3  # a child that has ended
    assert beside.own - after_end.own >= 0.3  # a child that lives
    assert read_load().own >= beside.own


# ---- waiting


def test_a_quiet_machine_is_not_waited_for():
    assert Machine(0.1).watch().wait() == (0.1, 0.0)


def test_the_watch_waits_until_others_are_done():
    taken, waited = Machine(*[1.0] * 5, 0.0).watch().wait()
    assert taken == 0.0 and 2.5 < waited < 8


@pytest.mark.parametrize("wait_s", [0.5, 5.0, 30.0])
def test_it_gives_up_in_time_and_then_only_looks(wait_s):
    machine = Machine(*[1.5] * 300)
    watch = machine.watch(wait_s=wait_s)
    assert watch.wait()[0] == 1.5 and watch.gave_up and wait_s <= machine.now <= wait_s + 1
    now = machine.now
    assert watch.wait() == (1.5, 0.0) and machine.now - now == pytest.approx(0.2)
    machine.taken.clear()
    assert watch.wait() == (0.0, 0.0) and not watch.gave_up  # it has hope again
    machine.taken = [1.5] * 300
    now = machine.now
    assert watch.wait()[1] >= wait_s - 0.3 and machine.now - now >= wait_s


def test_nobody_waits_or_looks_where_the_wait_is_nothing(monkeypatch):
    machine = Machine(2.0)
    assert machine.watch(wait_s=0).wait() == (None, 0.0) and machine.now == 0
    monkeypatch.setenv("RTSEG_WAIT_FOR_QUIET", "0")
    assert machine.watch(wait_s=None).wait() == (None, 0.0)
    monkeypatch.setenv("RTSEG_WAIT_FOR_QUIET", "2.5")
    assert longest_wait() == 2.5
    monkeypatch.delenv("RTSEG_WAIT_FOR_QUIET")
    assert longest_wait() == 30


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", ""])
def test_an_impossible_wait_is_refused(text, monkeypatch):
    monkeypatch.setenv("RTSEG_WAIT_FOR_QUIET", text)
    with pytest.raises(ConfigError, match="RTSEG_WAIT_FOR_QUIET is"):
        longest_wait()


# ---- measuring


def test_a_quiet_measurement_is_made_once():
    machine = Machine()
    found, record = measure_watched(lambda: machine.work(1.0), machine.watch())
    assert found == pytest.approx(1.2) and record == LoadRecord(False, 0.0, 0.0, 2) and str(record) == ""


def test_a_disturbed_measurement_is_repeated_and_the_quieter_one_counts():
    machine = Machine(0.0, 1.0, 0.0, 0.0)
    found, record = measure_watched(lambda: machine.work(1.0), machine.watch())
    assert found == pytest.approx(2.4) and record == LoadRecord(False, 0.0, 0.0, 2, attempts=2)


@pytest.mark.parametrize("during, kept", [((1.0, 0.5), 0.5), ((0.5, 1.0), 0.5)])
def test_two_disturbed_measurements_are_marked(during, kept):
    machine = Machine(0.0, during[0], 0.0, during[1])
    found, record = measure_watched(lambda: machine.work(1.0), machine.watch())
    assert (
        record.busy
        and record.during == kept
        and record.attempts == 2
        and str(record) == "others used 0.5 of 2 cores meanwhile"
    )
    assert found == pytest.approx(1.2 if during.index(kept) == 0 else 2.4)


def test_a_machine_that_is_never_quiet_is_measured_once_and_marked():
    machine = Machine(*[1.5] * 300)
    calls = []
    watch = machine.watch()
    _, record = measure_watched(lambda: calls.append(machine.work(1.0)), watch)
    assert len(calls) == 1 and record.busy and record.before == record.during == 1.5 and 29 < record.waited_s < 32
    _, record = measure_watched(lambda: calls.append(machine.work(1.0)), watch)
    assert len(calls) == 2 and record.busy and record.waited_s == 0


def test_a_short_measurement_is_judged_by_the_look_before():
    machine = Machine(*[1.0] * 300)
    _, record = measure_watched(lambda: machine.work(0.01), machine.watch(wait_s=1.0))
    assert record.busy and record.during is None and record.before == 1.0
    _, record = measure_watched(lambda: machine.work(0.01), machine.watch(wait_s=0))
    assert record == LoadRecord(False, None, None, 2)


def test_stretches_hold_every_item_once():
    machine = Machine(*[0.0, 2.0, 0.0] * 5)
    found = list(in_stretches((machine.work(0.15) for _ in range(7)), machine.watch()))
    assert [len(items) for items, *_ in found] == [2, 2, 2, 1] and found[0][1] == 1.0 and found[-1][1:] == (None, 2)
    assert sorted(time for items, *_ in found for time in items) == pytest.approx([0.15 * (i + 1) for i in range(7)])


# ---- what is measured carries the record


def test_a_latency_says_that_it_was_disturbed():
    machine = Machine(*[1.5] * 500)
    network = nn.Conv2d(3, 4, 3, padding=1).eval()
    latency = measure_latency(
        network, (1, 3, 16, 16), threads=1, max_seconds=0.05, rounds=1, min_runs=3, watch=machine.watch(wait_s=2.0)
    )
    assert (
        latency.protocol["load"]["busy"]
        and latency.disturbance == "others used 1.5 of 2 cores meanwhile"
        and "busy: others used 1.5" in str(latency)
    )
    assert Latency.from_dict(latency.to_dict()).disturbance == latency.disturbance
    quiet = measure_latency(
        network, (1, 3, 16, 16), threads=1, max_seconds=0.05, rounds=1, min_runs=3, watch=Machine().watch()
    )
    assert not quiet.protocol["load"]["busy"] and quiet.disturbance == "" and "busy" not in str(quiet)


def test_end_to_end_says_it_in_both_of_its_latencies():
    runtime = load_runtime(nn.Conv2d(3, 4, 3, padding=1).eval(), runtime="torch", threads=1, shape=(1, 3, 16, 16))
    record = measure_end_to_end(
        runtime, (16, 16), rounds=1, min_runs=3, max_seconds=0.1, watch=Machine(*[1.0] * 500).watch(wait_s=1.0)
    )
    assert record.whole.disturbance == record.network.disturbance == "others used 1.0 of 2 cores meanwhile"


def test_old_records_are_quiet():
    old = Latency(1.0, 0.9, 1.1, 5, (1, 3, 8, 8), "a", "torch", "fp32", 1, protocol={"load": 1.25})
    assert old.disturbance == ""
