"""The division of a machine's energy among its runs."""

import json
import os
import subprocess
import sys
import threading
import time
from itertools import cycle, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from effnlp.evaluation.energy import EnergyMeter, machine_energy, share
from effnlp.evaluation.power import (
    NvidiaGpu,
    Processor,
    ProcessorModel,
    RaplPackages,
    Sample,
    busy_cpu_seconds,
    own_cpu_seconds,
    processor,
    rapl_files,
    since,
    visible_gpus,
)
from effnlp.evaluation.presence import Presence

ROOT = Path(__file__).resolve().parents[2]


class FakeClock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeDomain:
    """A machine whose power and use are set by the test."""

    name, method = "fake", "measured"

    def __init__(self, clock, watts=0.0, idle_watts=0.0, own_cores=1.0, busy_cores=1.0, active_runs=1):
        self.clock, self.watts, self.idle_watts = clock, watts, idle_watts
        self.own_cores, self.busy_cores, self.active_runs = own_cores, busy_cores, active_runs
        self.constants = {"idle_watts": idle_watts}
        self.fails = False

    def sample(self):
        if self.fails:
            raise OSError("no such sensor")
        now = self.clock()
        return Sample(self.watts * now, self.own_cores * now, self.busy_cores * now, self.active_runs)


@pytest.fixture
def clock():
    return FakeClock()


def make_meter(clock, *domains):
    return EnergyMeter(domains, clock=clock, period_seconds=3600)


def charged(meter, clock, seconds):
    meter.start()
    start = meter.mark()
    clock.now += seconds
    reading = meter.between(start, meter.mark())
    meter.stop()
    return reading


def test_constant_power_gives_power_times_time(clock):
    reading = charged(make_meter(clock, FakeDomain(clock, watts=40)), clock, 25)
    assert reading.joules == pytest.approx(40 * 25)
    assert reading.method == "measured"
    assert reading.constants == {"fake/idle_watts": 0.0}


def test_marks_in_between_change_nothing(clock):
    meter = make_meter(clock, FakeDomain(clock, watts=40, idle_watts=10, own_cores=1, busy_cores=4))
    meter.start()
    start = meter.mark()
    for seconds in (1, 7, 0, 2):
        clock.now += seconds
        meter.mark()
    assert meter.between(start, meter.mark()).joules == pytest.approx(10 * (10 + 30 / 4))
    meter.stop()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # 100 J in 10 s at 4 W idle: 40 J idle among 2 runs, 60 J dynamic, of which 3 of 12 seconds are own.
        (Sample(0, 0, 0, 2), Sample(100, 3, 12, 2), 20 + 15),
        # Less than idle was drawn: all of it is idle.
        (Sample(0, 0, 0, 2), Sample(30, 3, 12, 2), 15),
        # Nobody used it: shared equally.
        (Sample(5, 1, 1, 4), Sample(105, 1, 1, 4), 25),
        # The coarser clock of the machine lags behind ours: never more than everything.
        (Sample(0, 0, 0, 1), Sample(100, 3, 2, 1), 100),
        # A run that does not use the device pays nothing.
        (Sample(0, 0, 0, 0), Sample(100, 0, 12, 0), 0),
        # A counter that was set back is no negative energy.
        (Sample(100, 0, 0, 1), Sample(0, 3, 12, 1), 0),
    ],
)
def test_the_share_of_a_run_equals_the_hand_computed_one(before, after, expected):
    assert share(before, after, seconds=10, idle_watts=4) == pytest.approx(expected)


def test_the_shares_of_all_runs_add_up_to_the_machine_with_idle_once():
    uses = [0.5, 3.0, 0.0, 8.5]
    shares = [
        share(Sample(0, 0, 0, 4), Sample(500, own, sum(uses), 4), seconds=10, idle_watts=20) for own in uses
    ]
    assert sum(shares) == pytest.approx(500)
    assert shares[2] == pytest.approx(20 * 10 / 4)


def test_what_is_above_idle_is_the_rest_beside_the_share_of_the_idle_power(clock):
    busy = FakeDomain(clock, watts=40, idle_watts=10, own_cores=1, busy_cores=4, active_runs=2)
    reading = charged(make_meter(clock, busy), clock, 20)
    assert reading.idle_joules == pytest.approx(10 * 20 / 2)
    assert reading.above_idle_joules == pytest.approx(30 * 20 / 4)
    assert reading.joules == pytest.approx(reading.idle_joules + reading.above_idle_joules)


def test_where_the_idle_power_of_a_device_is_not_known_nothing_is_known_above_it(clock):
    gpu = FakeDomain(clock, watts=300, idle_watts=0.0)
    reading = charged(make_meter(clock, FakeDomain(clock, watts=40, idle_watts=10), gpu), clock, 5)
    assert reading.joules == pytest.approx(340 * 5)
    assert (reading.idle_joules, reading.above_idle_joules) == (None, None)


def test_domains_add_up_and_one_estimate_makes_the_whole_an_estimate(clock):
    model = ProcessorModel(3.0, 10.0, lambda: 1, own_seconds=lambda: 2 * clock(), clock=clock)
    meter = make_meter(clock, FakeDomain(clock, watts=40), model)
    reading = charged(meter, clock, 10)
    assert reading.joules == pytest.approx(10 * (40 + 10 + 2 * 3))
    assert reading.method == "estimated"
    assert reading.constants["processor/watts_per_core"] == 3.0


def test_the_model_charges_a_run_for_its_own_seconds_whatever_else_runs(clock):
    for active in (1, 4):
        model = ProcessorModel(3.0, 10.0, lambda n=active: n, own_seconds=lambda: 2 * clock(), clock=clock)
        reading = charged(make_meter(clock, model), clock, 10)
        assert reading.joules == pytest.approx(10 * (10 / active + 2 * 3))


def test_a_failing_sensor_leaves_a_reason_and_fails_nothing(clock):
    domain = FakeDomain(clock, watts=40)
    meter = make_meter(clock, domain)
    meter.start()
    before = meter.mark()
    clock.now += 5
    good = meter.mark()
    domain.fails = True
    clock.now += 5
    broken = meter.mark()
    domain.fails = False
    clock.now += 5
    recovering = meter.mark()
    clock.now += 5
    end = meter.mark()
    meter.stop()
    assert meter.between(before, good).joules == pytest.approx(200)
    for start, stop in ((good, broken), (before, end), (broken, recovering)):
        reading = meter.between(start, stop)
        assert reading.joules is None
        assert reading.method is None
        assert "no such sensor" in reading.reason
    assert meter.between(recovering, end).joules == pytest.approx(200)


def test_a_sensor_that_fails_from_the_start_fails_nothing(clock):
    domain = FakeDomain(clock)
    domain.fails = True
    reading = charged(make_meter(clock, domain), clock, 10)
    assert (reading.joules, reading.method) == (None, None)
    assert "no such sensor" in reading.reason


def test_without_a_domain_energy_is_absent_with_the_reason_given(clock):
    reading = charged(EnergyMeter([], clock=clock, reason="no power here"), clock, 10)
    assert (reading.joules, reading.method, reading.reason) == (None, None, "no power here")


def test_a_paused_run_is_neither_charged_nor_counted_as_active(clock, tmp_path):
    presence = Presence(tmp_path)
    meter = EnergyMeter([FakeDomain(clock, watts=40)], presence, clock=clock, period_seconds=3600)
    meter.start()
    start = meter.mark()
    clock.now += 5
    with meter.paused():
        assert presence.count() == 0
        clock.now += 1000
        meter.mark()
    assert presence.count() == 1
    clock.now += 5
    assert meter.between(start, meter.mark()).joules == pytest.approx(400)
    meter.stop()
    assert presence.count() == 0


def test_a_thread_samples_by_itself_so_that_counters_do_not_wrap_unseen(clock):
    sampled = threading.Event()

    class Domain(FakeDomain):
        samples = 0

        def sample(self):
            self.samples += 1
            if self.samples > 3:
                sampled.set()
            return super().sample()

    meter = EnergyMeter([Domain(clock)], clock=clock, period_seconds=0.01)
    meter.start()
    assert sampled.wait(10)
    meter.stop()


def write_package(folder, name, microjoules, largest=1000):
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")


def test_rapl_takes_each_package_once_and_no_part_of_one(tmp_path):
    write_package(tmp_path / "intel-rapl:0", "package-0", 1)
    write_package(tmp_path / "intel-rapl:1", "package-1", 1)
    write_package(tmp_path / "intel-rapl:0:0", "core", 1)
    write_package(tmp_path / "intel-rapl:2", "psys", 1)
    write_package(tmp_path / "intel-rapl-mmio:0", "package-0", 1)
    assert len(rapl_files(tmp_path)) == 2
    assert {path.parent.name[-2:] for path in rapl_files(tmp_path)} == {":0", ":1"}
    assert rapl_files(tmp_path / "nowhere") == {}


def test_rapl_carries_on_when_a_counter_wraps_around(tmp_path):
    write_package(tmp_path / "intel-rapl:0", "package-0", 900, largest=999)
    write_package(tmp_path / "intel-rapl:1", "package-1", 10, largest=999)
    source = RaplPackages(rapl_files(tmp_path), 0, lambda: 1, lambda: 0, lambda: 0)
    assert source.sample().joules == 0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("50")  # 900 … 999, 0 … 50: 150 on
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("30")
    assert source.sample().joules == pytest.approx(170e-6)
    assert source.sample().joules == pytest.approx(170e-6)


@pytest.mark.parametrize(("before", "now", "expected"), [(3, 3, 0), (3, 9, 6), (9, 0, 1), (8, 2, 4)])
def test_a_counter_up_to_nine_goes_on_at_zero(before, now, expected):
    assert since(before, now, largest=9) == expected


def test_the_power_of_the_cores_and_idle_power_make_up_the_thermal_design_power():
    chosen = processor(tdp_watts=100, idle_watts=20, cores=8)
    assert chosen.watts_per_core == pytest.approx(10)
    assert chosen.idle_watts + 8 * chosen.watts_per_core == pytest.approx(100)
    looked_up = processor()
    assert looked_up.tdp_watts > looked_up.idle_watts > 0
    assert looked_up.source
    with pytest.raises(ValueError, match="idle_watts must be at least 0 and below tdp_watts"):
        Processor(tdp_watts=10, idle_watts=10, cores=2, source="")


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, [0, 1, 2]), ("1", [1]), ("2,0", [2, 0]), ("", []), ("0,-1,1", [0])]
)
def test_only_gpus_that_the_process_may_use_are_read(visible, expected):
    assert visible_gpus(3, visible) == expected


class FakeNvml:
    """A GPU of 100 W; process 1 keeps 60 % of it busy, process 2 20 %."""

    class NVMLError(Exception):
        pass

    tells_processes = True

    def __init__(self):
        self.start = time.monotonic()
        self.seen = []

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return (time.monotonic() - self.start) * 100e3

    def nvmlDeviceGetProcessUtilization(self, handle, since):
        if not self.tells_processes:
            raise self.NVMLError
        self.seen.append(since)
        now = since + 1000
        return [
            SimpleNamespace(pid=1, smUtil=60, timeStamp=now),
            SimpleNamespace(pid=2, smUtil=20, timeStamp=now),
        ]


@pytest.mark.parametrize(("pids", "share_of_run"), [([1, 77], 0.75), ([2], 0.25), ([3], 0.0)])
def test_a_gpu_is_charged_by_the_time_that_processes_kept_it_busy(pids, share_of_run):
    nvml = FakeNvml()
    gpu = NvidiaGpu(nvml, 0, active_runs=lambda: 2, pids=lambda: pids)
    before = gpu.sample()
    time.sleep(0.05)
    after = gpu.sample()
    charge = share(before, after, seconds=0.05, idle_watts=gpu.idle_watts)
    assert charge == pytest.approx(share_of_run * (after.joules - before.joules))
    assert after.joules > before.joules
    assert nvml.seen == [0, 1000]


def test_a_gpu_that_does_not_tell_its_processes_is_shared_equally():
    nvml = FakeNvml()
    nvml.tells_processes = False
    gpu = NvidiaGpu(nvml, 0, active_runs=lambda: 2, pids=lambda: [1])
    before = gpu.sample()
    time.sleep(0.02)
    after = gpu.sample()
    assert share(before, after, 0.02, 0) == pytest.approx((after.joules - before.joules) / 2)


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_processor_time_of_children_counts_alive_and_ended():
    code = "import time,sys\nend=time.process_time()+0.4\nwhile time.process_time()<end: pass\n"
    start = own_cpu_seconds()
    child = subprocess.Popen(
        [sys.executable, "-c", code + "print('done',flush=True)\nsys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    alive = own_cpu_seconds() - start
    child.communicate()
    ended = own_cpu_seconds() - start
    assert 0.35 < alive < 2
    assert 0.35 < ended < 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such clock")
def test_processor_time_of_a_living_child_is_not_read_in_steps_of_ten_milliseconds():
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        readings = []
        while len(set(readings)) < 20:
            readings.append(own_cpu_seconds())
    finally:
        child.kill()
        child.wait()
    assert readings == sorted(readings)
    assert any(round(value * 1000, 6) % 10 for value in readings)


def test_a_child_that_ends_meanwhile_is_counted_once():
    """Readings never fall: what would be missed once would be charged twice."""
    start, readings, over = own_cpu_seconds(), [], threading.Event()

    def read():
        while not over.is_set():
            readings.append(own_cpu_seconds())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(8):
        subprocess.run([sys.executable, "-S", "-c", "sum(range(1_000_000))"], check=True)
    over.set()
    reader.join()
    falls = [before - after for before, after in pairwise(readings) if after < before]
    assert readings[-1] > start
    assert max(falls, default=0.0) < 0.025  # the ticks of a child that has ended are coarser
    assert sum(falls) < 0.02 * 8 + 0.01


def test_own_time_is_part_of_the_busy_time_of_the_machine():
    own, busy = own_cpu_seconds(), busy_cpu_seconds()
    burn(0.5)
    own, busy = own_cpu_seconds() - own, busy_cpu_seconds() - busy
    assert own >= 0.5
    assert busy >= 0.9 * own


def test_the_meter_of_this_machine_reads_something_and_says_how(tmp_path):
    meter = machine_energy(folder=tmp_path)
    meter.start()
    start = meter.mark()
    burn(0.1)
    reading = meter.between(start, meter.mark())
    meter.stop()
    assert reading.joules > 0
    assert reading.method in ("measured", "estimated")
    assert "processor/idle_watts" in reading.constants


def test_a_reading_that_comes_late_on_a_busy_machine_is_charged_once(clock):
    """What was idle while the meter waited for the processor is shared like the rest, and no use of this run."""
    waits, used = cycle([0.0, 0.4, 0.1, 0.0]), 0.0

    def own_seconds():
        clock.now += next(waits)  # others have the processor
        return used

    model = ProcessorModel(30.0, 40.0, lambda: 2, own_seconds=own_seconds, clock=clock)
    meter = make_meter(clock, model)
    meter.start()
    begin, start = meter.mark(), clock.now
    for _ in range(20):
        clock.now += 0.05
        used += 0.001
        meter.mark()
    clock.now += 0.05
    end = meter.mark()
    assert meter.between(begin, end).joules == pytest.approx(40 * (clock.now - start) / 2 + 30 * used)
    meter.stop()


RUN = """
import json, sys, time
from pathlib import Path
from effnlp.evaluation.energy import EnergyMeter
from effnlp.evaluation.power import Sample
from effnlp.evaluation.presence import Presence

folder, cores, runs = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
presence = Presence(folder / "active")
WATTS_PER_CORE, IDLE = 7.0, 12.0
start = float((folder / "start").read_text())


class Machine:
    # Every process computes the same counters: all work from the start on, each with its own cores.
    name, method, idle_watts, constants = "fake", "measured", IDLE, {}

    def sample(self):
        seconds = time.time() - start
        busy = float((folder / "cores").read_text())
        joules = (IDLE + WATTS_PER_CORE * busy) * seconds
        return Sample(joules, cores * seconds, busy * seconds, presence.count())


meter = EnergyMeter([Machine()], presence, period_seconds=0.05, clock=time.time)
meter.start()
while presence.count() < runs:
    time.sleep(0.005)
begin, t = meter.mark(), time.time()
while time.time() < t + 1.5:
    time.sleep(0.01)
reading, seconds = meter.between(begin, meter.mark()), time.time() - t
(folder / f"done-{sys.argv[2]}").touch()
while len(list(folder.glob("done-*"))) < runs:
    time.sleep(0.005)
meter.stop()
print(json.dumps([reading.joules, seconds]))
"""


def test_concurrent_processes_are_charged_their_own_within_five_per_cent_and_idle_once(tmp_path):
    cores = [0.25, 0.5, 1.0, 2.5]
    (tmp_path / "cores").write_text(str(sum(cores)))
    (tmp_path / "start").write_text(str(time.time()))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path), str(own), str(len(cores))],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        for own in cores
    ]
    watts = {}
    for own, process in zip(cores, processes, strict=True):
        out, _ = process.communicate(timeout=60)
        joules, seconds = json.loads(out)
        watts[own] = joules / seconds
    for own in cores:
        assert watts[own] == pytest.approx(12 / len(cores) + 7 * own, rel=0.05), own
    assert sum(watts.values()) == pytest.approx(12 + 7 * sum(cores), rel=0.05)


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


BURN = """
import json, sys, time
from pathlib import Path
from effnlp.evaluation.energy import EnergyMeter
from effnlp.evaluation.power import Sample, own_cpu_seconds
from effnlp.evaluation.presence import Presence

folder, fraction, runs = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
presence = Presence(folder / "active")
machine_start = float((folder / "start").read_text())


class Machine:
    # 10 W for each core that one of the processes keeps busy, and 12 W always.
    name, method, idle_watts, constants = "fake", "measured", 12.0, {}

    def sample(self):
        own = own_cpu_seconds()
        shown = folder / (sys.argv[2] + ".hidden")
        shown.write_text(str(own))
        shown.replace(folder / (sys.argv[2] + ".seconds"))
        busy = sum(float(path.read_text()) for path in folder.glob("*.seconds"))
        return Sample(12 * (time.time() - machine_start) + 10 * busy, own, busy, presence.count())


meter = EnergyMeter([Machine()], presence, period_seconds=0.05, clock=time.time)
meter.start()
while presence.count() < runs or len(list(folder.glob("*.seconds"))) < runs:
    time.sleep(0.005)
begin, wall, cpu = meter.mark(), time.monotonic(), time.process_time()
while time.monotonic() < wall + 4:
    slice_end = time.process_time() + 0.02 * fraction
    while time.process_time() < slice_end:
        pass
    time.sleep(0.02 * (1 - fraction))
reading = meter.between(begin, meter.mark())
used, seconds = time.process_time() - cpu, time.monotonic() - wall
(folder / ("done-" + sys.argv[2])).touch()
while len(list(folder.glob("done-*"))) < runs:
    time.sleep(0.005)
meter.stop()
print(json.dumps([reading.joules, used, seconds]))
"""


@pytest.mark.slow
def test_real_processes_with_different_load_are_charged_for_the_time_they_used(tmp_path):
    (tmp_path / "start").write_text(str(time.time()))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BURN, str(tmp_path), str(fraction), "3"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        for fraction in (0.1, 0.3, 0.9)
    ]
    charges = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    used = [seconds for _, seconds, _ in charges]
    assert max(used) > 2 * min(used)
    for joules, own_seconds, seconds in charges:
        assert joules == pytest.approx(10 * own_seconds + 12 / 3 * seconds, rel=0.05)
    total = 10 * sum(used) + 12 * charges[0][2]
    assert sum(joules for joules, _, _ in charges) == pytest.approx(total, rel=0.05)
