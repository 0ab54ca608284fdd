"""The doctor looks at everything, quickly, and never fails itself."""

import socket
import subprocess
import sys
import time

import pytest

from effnlp import doctor
from effnlp.compression.quantization import backends


@pytest.mark.slow
def test_it_names_all_it_looked_at_and_exits_with_0(tmp_path):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "effnlp.cli", "doctor"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for what in (
        "Python", "torch", "processor", "int8 by torch", "memory", "GPU", "power", "carbon", "configs", "cache",
        "locks", "data root", "joblib", "submitit", "ray", "network", "effnlp[minilm]",
    ):  # fmt: skip
        assert what in done.stdout, what
    assert time.monotonic() - start < 30  # 3 s alone
    assert list(tmp_path.iterdir()) == []


def test_a_failing_probe_is_a_row_and_not_the_end():
    def broken():
        yield "before", "ok", "found"
        raise RuntimeError("the sensor burnt")

    rows = list(doctor._safely(broken))
    assert rows == [("before", "ok", "found"), ("broken", "no", "RuntimeError: the sensor burnt")]


def test_it_says_how_fast_each_exact_back_end_of_quantized_layers_is_and_which_are_not(monkeypatch):
    monkeypatch.setattr(backends, "NAMES", backends.NAMES[:3])  # the fourth compiles first
    rows = {what: (state, found) for what, state, found in doctor.integer_products()}
    assert {f"int8 by {name}" for name in backends.NAMES} == set(rows) - {"int8 by torch, 7 bits"}
    for name in backends.available():
        state, found = rows[f"int8 by {name}"]
        assert state == "ok"
        assert "times as fast as float32" in found
        assert backends.version_of(name) in found


@pytest.mark.skipif(not backends.has("torch", backends.SEVEN_BITS), reason="fbgemm is not there")
def test_where_eight_bits_saturate_it_says_how_fast_seven_are(monkeypatch):
    monkeypatch.setattr(backends, "NAMES", ("torch",))
    is_exact = backends.has
    monkeypatch.setattr(
        backends, "has", lambda name, largest=127: largest == backends.SEVEN_BITS and is_exact(name, largest)
    )
    rows = {what: (state, found) for what, state, found in doctor.integer_products()}
    state, found = rows["int8 by torch, 7 bits"]
    assert state == "ok"
    assert "times as fast as float32" in found
    assert "compression.quantization.activation_bits=7" in found


def test_a_back_end_that_is_not_there_is_told_and_not_timed(monkeypatch):
    lacks = {
        "torch": "is not exact on this machine, or not there",
        "onnxruntime": "needs onnxruntime",
        "torchao": "needs it",
    }
    monkeypatch.setattr(backends, "why_not", lacks.get)
    monkeypatch.setattr(backends, "has", lambda name, largest=127: name not in lacks)
    rows = [(what, state, found.partition(";")[0]) for what, state, found in doctor.integer_products()]
    assert rows[0][:2] == ("int8 by reference", "ok")
    states = {"torch": "no", "onnxruntime": "-", "torchao": "-"}
    assert rows[1:] == [(f"int8 by {name}", state, lacks[name]) for name, state in states.items()]


@pytest.mark.parametrize(("seconds", "state", "said"), [
    ([2e-3, 1e-3], "ok", "2.0 times as fast as float32"),
    ([1e-3, 8e-3], "-", "0.1 times as fast as float32 just now, one layer of 256 × 384 → 1536 and its gradients; "
     "hardware=fp32 learns faster here"),
])  # fmt: skip
def test_it_says_whether_learning_in_half_precision_is_faster_here(monkeypatch, seconds, state, said):
    def turns(calls, **_):
        for call in calls:
            call()
        return seconds

    monkeypatch.setattr("effnlp.evaluation.latency.fastest_turns", turns)
    [(what, found_state, found)] = doctor.half_precision()
    assert (what, found_state) == ("bf16", state)
    assert found.startswith(said)


def test_dot_products_are_read_from_the_flags_of_the_processor(tmp_path):
    file = tmp_path / "cpuinfo"
    assert doctor._dot_products_of_int8(file) == []
    file.write_text("model name\t: avx_vnni\nflags\t\t: fpu avx512_vnni_other avx512_vnni sse\n")
    assert doctor._dot_products_of_int8(file) == ["avx512_vnni"]


@pytest.mark.parametrize(
    "reason", [socket.gaierror(-2, "Name or service not known"), TimeoutError("timed out")]
)
def test_no_network_is_a_finding(reason, monkeypatch):
    def refuse(*_, **__):
        raise reason

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    [(what, state, found)] = doctor.network()
    assert (what, state) == ("network", "-")
    assert reason.args[-1] in found
    assert "work" in found


def test_a_name_server_that_is_silent_does_not_hold_it_up(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(doctor, "NETWORK_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "_refusal", lambda *_: time.sleep(3))
    start = time.monotonic()
    [(_, state, found)] = doctor.network()
    assert time.monotonic() - start < 2
    assert state == "-"
    assert "no answer" in found


def test_a_mirror_of_the_hub_is_asked_where_it_is(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert [state for _, state, _ in doctor.network()] == ["ok"]


def test_an_offline_setting_is_respected(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("asked the network"))
    [(_, state, found)] = doctor.network()
    assert state == "-"
    assert "HF_HUB_OFFLINE" in found


def test_the_data_root_lists_its_sets_or_says_that_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNLP_DATA", str(tmp_path))
    [(_, state, found)] = doctor.data()
    assert state == "no"
    assert "holds no data set" in found
    for name in ("trec", "sst2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text("{}")
    [(_, state, found)] = doctor.data()
    assert state == "ok"
    assert found == f"{tmp_path}: sst2, trec"
    monkeypatch.delenv("EFFNLP_DATA")
    [(_, state, found)] = doctor.data()
    assert state == "-"
    assert "EFFNLP_DATA is not set" in found


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: str(tmp_path) not in str(path))
    rows = {what: (state, found) for what, state, found in doctor.storage()}
    assert rows["cache"][0] == "no"
    assert "not writable" in rows["cache"][1]
    assert "EFFNLP_CACHE" in rows["cache"][1]
