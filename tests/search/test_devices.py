"""Each worker of a machine has processors and GPUs of its own; with real processes, which die."""

import json
import os
import subprocess
import sys

import pytest

from effnlp.evaluation.latency import pinned_threads
from effnlp.evaluation.presence import HAS_LOCKS
from effnlp.hardware import affinity
from effnlp.search.devices import choose, claim, given_threads, visible_gpus

pytestmark = pytest.mark.skipif(
    not HAS_LOCKS or sys.platform != "linux", reason="needs file locks and CPU affinity"
)

WORKER = """
import json, os, sys
from effnlp.search.devices import occupy_share
share = occupy_share(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
again = occupy_share(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
assert again is share
child = os.popen(f"{sys.executable} -c 'import os; print(sorted(os.sched_getaffinity(0)))'").read()
print(json.dumps({
    "cpus": share.cpus, "gpus": share.gpus, "threads": share.threads, "owns_gpus": share.owns_gpus,
    "affinity": sorted(os.sched_getaffinity(0)), "child": json.loads(child),
    "omp": os.environ["OMP_NUM_THREADS"], "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
}), flush=True)
sys.stdin.read()
"""

PREPARED = """
import effnlp.search.devices as devices
devices.affinity.allowed_cpus = lambda: list(range(8))  # more than this machine may have
devices.affinity.bind = lambda cpus: None
"""


@pytest.fixture
def start(tmp_path):
    """Start workers that hold their share until they are ended; what each of them got."""
    processes = []

    def go(worker, workers, threads, program=WORKER, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(worker), str(workers), str(threads)],
            env={**os.environ, "EFFNLP_LOCK_DIR": str(tmp_path / "locks"), **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process, json.loads(process.stdout.readline())

    yield go
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.skipif(len(affinity.allowed_cpus()) < 2, reason="needs two CPUs")
def test_two_workers_run_on_different_cpus_and_so_do_their_children(start):
    found = [start(index, 2, 1)[1] for index in range(2)]
    assert [len(worker["cpus"]) for worker in found] == [1, 1]
    assert not set(found[0]["cpus"]) & set(found[1]["cpus"])
    for worker in found:
        assert worker["affinity"] == worker["child"] == worker["cpus"]
        assert worker["omp"] == "1"


def test_more_workers_than_cpus_still_run_on_all_of_them(start):
    allowed = affinity.allowed_cpus()
    found = [start(index, len(allowed) + 1, 1)[1] for index in range(len(allowed) + 1)]
    *lucky, last = found
    assert sorted(cpu for worker in lucky for cpu in worker["cpus"]) == allowed
    assert last["cpus"] == []
    assert last["affinity"] == last["child"] == allowed
    assert last["omp"] == "1"


def test_the_share_of_a_killed_worker_is_free_again(start):
    first, before = start(0, 1, 1)
    first.kill()
    first.wait()
    assert start(0, 1, 1)[1]["cpus"] == before["cpus"]


def test_two_sweeps_of_one_machine_see_each_other_and_neighbouring_cpus_go_together(start):
    program = PREPARED + WORKER
    found = [start(index % 2, 2, threads, program)[1]["cpus"] for index, threads in enumerate((2, 3, 3))]
    assert found == [[0, 1], [2, 3, 4], [5, 6, 7]]


def test_nobody_takes_a_part_of_what_it_needs(start):
    program = PREPARED + WORKER
    assert start(0, 3, 5, program)[1]["cpus"] == [0, 1, 2, 3, 4]
    assert start(1, 3, 5, program)[1]["cpus"] == []
    assert start(2, 3, 3, program)[1]["cpus"] == [5, 6, 7]


def test_gpus_are_disjoint_while_there_are_enough_and_shared_in_turn_afterwards(start):
    program = PREPARED + "devices.machine_gpus = lambda: 2\n" + WORKER
    found = [start(index, 4, 1, program)[1] for index in range(4)]
    assert [worker["gpus"] for worker in found] == [["0"], ["1"], ["0"], ["1"]]
    assert [worker["cuda"] for worker in found] == ["0", "1", "0", "1"]
    assert [worker["owns_gpus"] for worker in found] == [True, True, False, False]


def test_a_worker_takes_its_gpu_from_those_that_it_may_see(start):
    program = PREPARED + "devices.machine_gpus = lambda: 8\n" + WORKER
    found = [start(index, 2, 1, program, CUDA_VISIBLE_DEVICES="5,7")[1]["cuda"] for index in range(2)]
    assert found == ["5", "7"]
    assert start(0, 1, 1, program, CUDA_VISIBLE_DEVICES="")[1]["cuda"] == ""


def test_what_a_scheduler_gave_is_taken_as_it_is(start):
    program = PREPARED + "devices.machine_gpus = lambda: 8\n" + WORKER
    slurm = {"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "3", "CUDA_VISIBLE_DEVICES": "0,1"}
    for index in range(2):  # numbers of GPUs inside a job are the job's own: the same are not the same
        got = start(index, 2, 1, program, **slurm)[1]
        assert (got["gpus"], got["owns_gpus"], got["threads"], got["omp"]) == (["0", "1"], True, 3, "3")


@pytest.mark.parametrize(
    ("environment", "ray", "expected"),
    [
        ({}, None, None),
        ({"SLURM_CPUS_PER_TASK": "4"}, None, None),  # left over in a shell: no job
        ({"SLURM_JOB_ID": "7"}, None, None),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "6"}, None, 6),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "2"}, None, 2),
        ({}, 5, 5),
    ],
)
def test_a_scheduler_says_how_many_cpus_a_worker_has(environment, ray, expected):
    assert given_threads(environment, ray) == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2, 0", ["2", "0"]),
        ("1,5,0", ["1"]),
        ("MIG-ab,GPU-cd", ["MIG-ab", "GPU-cd"]),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_see(visible, expected):
    assert visible_gpus(visible, 3) == expected


def test_a_folder_that_cannot_be_written_leaves_workers_without_cpus_of_their_own(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    share = choose(1, 2, [0, 1], ["0", "1"], blocked)
    assert (share.cpus, share.gpus) == ((), ("1",))
    assert "cannot take devices" in caplog.text


@pytest.fixture
def this_process_restored():
    before = affinity.allowed_cpus()
    yield before
    affinity.bind(before)


@pytest.mark.skipif(len(affinity.allowed_cpus()) < 2, reason="needs two CPUs")
def test_latency_is_measured_on_all_cpus_that_the_worker_could_have_alone(this_process_restored, monkeypatch):
    allowed = this_process_restored
    monkeypatch.setenv(affinity.ALLOWED, ",".join(map(str, allowed)))
    affinity.bind(allowed[:1])
    with pinned_threads(None) as threads:
        assert threads == len(allowed)
        assert affinity.allowed_cpus() == allowed
    assert affinity.allowed_cpus() == allowed[:1]


def test_nothing_is_claimed_where_nothing_is_wanted(tmp_path):
    assert claim(["cpu-0"], 0, tmp_path) == []
    assert claim([], 1, tmp_path) == []
