"""Worker processes: how many cores they may use."""

import os

import pytest

from data import processes
from data.processes import usable_cores


def test_quotas_of_containers_count(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "CPU_MAX", tmp_path / "cpu.max")
    cores = usable_cores()
    for quota, expected in (("max", cores), ("50000", 1), (str(10**8), cores)):
        processes.CPU_MAX.write_text(f"{quota} 100000\n", encoding="utf-8")
        assert usable_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are bound on Linux only")
def test_only_cores_that_this_process_is_bound_to_count():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
