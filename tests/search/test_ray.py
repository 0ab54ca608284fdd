"""Sweeps over a real Ray cluster of two nodes, one of which goes away; each node with a power meter of its own."""

import importlib.util
import json
import time
from collections import Counter
from types import SimpleNamespace

import psutil
import pytest

from effnlp.record import Record
from effnlp.search.attributes import ATTEMPTS, OWNER, slots
from effnlp.search.state import Sweep, open_study, verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None
        or importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None,
        reason="needs the extra ray: pip install 'effnlp[ray]'",
    ),
]

PATIENCE_SECONDS = 240
MEMORY_BYTES = 80 * 2**20
"""Of the object store of a node, which a sweep has no use for."""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two nodes with one CPU and a folder of locks each, as if they were two machines; both end with the test."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path / "cache"))

    def settings(name):
        return {
            "num_cpus": 1, "object_store_memory": MEMORY_BYTES, "include_dashboard": False,
            "env_vars": {"EFFNLP_LOCK_DIR": str(tmp_path / name)},
        }  # fmt: skip

    made = Cluster(initialize_head=True, head_node_args=settings("head"))
    try:
        other = made.add_node(**{key: value for key, value in settings("other").items() if key[0] != "i"})
        made.wait_for_nodes()
        yield SimpleNamespace(
            address=made.address,
            nodes=[made.head_node, other],
            kill_other=lambda: made.remove_node(other, allow_graceful=False),
        )
    finally:
        import ray

        ray.shutdown()
        made.shutdown()


@pytest.fixture
def start(cluster, start_sweep, tmp_path):
    """Start a sweep over the cluster."""
    driver = {"RAY_ADDRESS": cluster.address, "EFFNLP_LOCK_DIR": str(tmp_path / "driver")}
    return lambda *overrides: start_sweep("hydra/launcher=ray_cluster", *overrides, env=driver)


def study_of(folder):
    sweep = Sweep.load(folder)
    return sweep, open_study(folder, sweep)


def node_of(trial):
    """The node whose worker runs a trial, by its folder of locks; None if it is not running."""
    owner = trial.user_attrs.get(OWNER)
    try:
        return psutil.Process(owner["pid"]).environ()["EFFNLP_LOCK_DIR"].rpartition("/")[2] if owner else None
    except psutil.Error:
        return None


def wait_until(what, process, seconds=PATIENCE_SECONDS):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        if process.poll() is not None:
            raise AssertionError(f"the sweep ended: {process.communicate()[0]}")
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def finished(folder):
    return {
        path.parent.name: path.read_bytes()
        for path in folder.glob("trials/*/record.json")
        if json.loads(path.read_text())["status"] != "failed"
    }


def in_training(folder, node):
    """Slots of trials that a node's worker trains and that have a checkpoint."""
    if not (folder / "sweep.json").exists():
        return []
    _, study = study_of(folder)
    return [
        slot
        for slot, trial in slots(study).items()
        if trial.state.name == "RUNNING"
        and (folder / "trials" / f"{slot:03d}" / "checkpoints" / "last.ckpt").exists()
        and node_of(trial) == node
    ]


def test_a_node_that_is_killed_costs_no_finished_trial_and_the_budget_stays_exact(cluster, start, tmp_path):
    folder = tmp_path / "multirun" / "s"
    trials = 5
    overrides = ["model.width=2,4,8,16,32,64", f"search.trials={trials}", "trainer.epochs=100"]
    process = start(*overrides)
    lost = wait_until(lambda: finished(folder) and in_training(folder, "other"), process)
    before = finished(folder)
    cluster.kill_other()
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    if process.returncode != 0:  # where Ray gave the whole sweep up: the same command resumes
        process = start(*overrides)
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    sweep, study = study_of(folder)
    taken = slots(study)
    assert sorted(taken) == list(range(trials))
    assert {trial.state.name for trial in taken.values()} <= {"COMPLETE", "PRUNED"}
    assert sorted(finished(folder)) == [f"{slot:03d}" for slot in range(trials)]
    for name, content in before.items():
        assert json.loads(content)["identity"] == json.loads(finished(folder)[name])["identity"]
        assert json.loads(content)["status"] == json.loads(finished(folder)[name])["status"]
    assert max(Counter(trial.user_attrs["hash"] for trial in taken.values()).values()) == 1
    assert any(ATTEMPTS in taken[slot].user_attrs for slot in lost)
    assert verify(study, sweep) == []


def test_workers_of_two_nodes_share_one_sweep(start, tmp_path):
    folder = tmp_path / "multirun" / "s"
    process = start(
        "model.width=2,4,8,16", "search.trials=4", "trainer.epochs=12", "search/early_stopping=none"
    )
    nodes = set()
    while process.poll() is None:
        if (folder / "sweep.json").exists():
            nodes |= {node_of(trial) for trial in slots(study_of(folder)[1]).values()}
        time.sleep(0.2)
    assert process.returncode == 0, process.communicate()[0]
    assert nodes >= {"head", "other"}
    records = [Record.load(path.parent) for path in folder.glob("trials/*/record.json")]
    assert [record.status for record in records] == ["completed"] * 4
    assert len({record.identity["config_hash"] for record in records}) == 4


def measure(name, runs, burns):
    """What a run is charged for on its node, beside so many, by a model of the processor with known watts.

    Beside it the seconds, of the clock and of the processor, between the marks and around them: on a busy machine
    a process may wait between a mark and the reading of a clock.
    """
    from effnlp.evaluation import energy
    from effnlp.evaluation.presence import Presence, lock_folder

    energy.rapl_files = dict  # no sensor, also where there is one
    meter = energy.machine_energy(tdp_watts=100.0, idle_watts=40.0, cores=2, period_seconds=0.05)
    meter.start()
    while Presence(lock_folder() / "active").count() < runs:
        time.sleep(0.005)

    def clocks():
        return time.monotonic(), time.process_time()

    before, mark, after = clocks(), meter.mark(), clocks()
    while time.monotonic() < after[0] + 3.0:
        if not burns:
            time.sleep(0.05)
    before_end, end, after_end = clocks(), meter.mark(), clocks()
    joules = meter.between(mark, end).joules
    inner = [stop - start for start, stop in zip(after, before_end, strict=True)]
    outer = [stop - start for start, stop in zip(before, after_end, strict=True)]
    (lock_folder() / f"done-{name}").touch()
    while len(list(lock_folder().glob("done-*"))) < runs:
        time.sleep(0.005)
    meter.stop()
    return joules, inner, outer


def test_each_node_is_charged_for_its_own_idle_power_and_the_runs_of_a_node_share_theirs(cluster, tmp_path):
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    task = ray.remote(num_cpus=0.3, max_calls=1)(measure)
    places = [0, 0, 1]  # two on one node, one on the other, all at the same time
    tasks = [
        task.options(scheduling_strategy=On(cluster.nodes[place].node_id, soft=False)).remote(
            index, places.count(place), burns=index != 1
        )
        for index, place in enumerate(places)
    ]
    charges = ray.get(tasks, timeout=PATIENCE_SECONDS)
    for place, (joules, inner, outer) in zip(places, charges, strict=True):
        least, most = (40 * seconds / places.count(place) + 30 * used for seconds, used in (inner, outer))
        assert 0.95 * least <= joules <= 1.05 * most
    assert {path.name for path in tmp_path.glob("*/done-*")} == {"done-0", "done-1", "done-2"}
    assert not set(tmp_path.glob("head/done-*")) & set(tmp_path.glob("other/done-*"))
