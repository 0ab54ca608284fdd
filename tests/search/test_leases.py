import json
import os
import subprocess
import sys
import time

from effnlp.search.leases import lease, sweep_goes_on, whether_lost


def owner(token="a", host="here", pid=None):
    return {"token": token, "host": host, "pid": os.getpid() if pid is None else pid}


def aged(folder, token, seconds):
    path = folder / "leases" / token
    old = path.stat().st_mtime - seconds
    os.utime(path, (old, old))


def test_an_owner_is_there_while_its_lease_is_renewed_and_gone_when_it_left(tmp_path):
    with lease(tmp_path, "a", seconds=0.6):
        time.sleep(1.0)
        assert whether_lost(tmp_path, owner(), 0.6, "elsewhere") != "yes"
    assert whether_lost(tmp_path, owner(), 0.6, "elsewhere") == "yes"


def test_a_silent_owner_is_neither_there_nor_gone_until_its_lease_is_over(tmp_path):
    with lease(tmp_path, "a", seconds=60):
        assert whether_lost(tmp_path, owner(), 60, "elsewhere") == "no"
        aged(tmp_path, "a", 30)
        assert whether_lost(tmp_path, owner(), 60, "elsewhere") == "silent"
        aged(tmp_path, "a", 31)
        assert whether_lost(tmp_path, owner(), 60, "elsewhere") == "yes"


def test_a_process_of_this_machine_that_is_gone_need_not_be_waited_for(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with lease(tmp_path, "a", seconds=60):
        assert whether_lost(tmp_path, owner(pid=ended.pid), 60, "here") == "yes"
        assert whether_lost(tmp_path, owner(pid=ended.pid), 60, "elsewhere") == "no"
        assert whether_lost(tmp_path, owner(), 60, "here") == "no"


def test_looking_leaves_nothing_behind(tmp_path):
    with lease(tmp_path, "a", seconds=60):
        whether_lost(tmp_path, owner(), 60, "elsewhere")
        assert [path.name for path in (tmp_path / "leases").iterdir()] == ["a"]
    assert list((tmp_path / "leases").iterdir()) == []


def test_workers_elsewhere_end_when_the_parent_is_silent_or_a_later_start_has_begun(tmp_path):
    def is_now(session):
        (tmp_path / "sweep.json").write_text(json.dumps({"session": session}))

    assert sweep_goes_on(tmp_path, "first", 60)  # nothing can be told
    (tmp_path / "leases").mkdir()
    (tmp_path / "starts").mkdir()
    account = tmp_path / "starts" / "first.json"
    account.touch()
    is_now("first")
    assert sweep_goes_on(tmp_path, "first", 60)
    an_hour_ago = account.stat().st_mtime - 3600
    os.utime(account, (an_hour_ago, an_hour_ago))
    assert not sweep_goes_on(tmp_path, "first", 60)
    account.touch()
    assert sweep_goes_on(tmp_path, "first", 60)
    is_now("second")
    assert not sweep_goes_on(tmp_path, "first", 60)
