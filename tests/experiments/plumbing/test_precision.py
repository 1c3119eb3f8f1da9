"""fp16: when it is chosen, and that processes that train together skip the same steps."""

import os

import pytest
import torch
from conftest import forked, same
from torch import nn

from experiments.plumbing import precision
from experiments.plumbing.distributed import processes
from experiments.train.loop import Settings, start, train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "bf16", "third"),
    [(CUDA, True, "bf16"), (CUDA, False, "fp16"), (CPU, True, "bf16"), (CPU, False, None)],
)
def test_auto_times_fp16_on_a_gpu_without_bf16_and_nowhere_else(monkeypatch, device, bf16, third):
    """The third option is the fastest; it is fp16 on a T4."""
    timed = []

    def time_step(model, batches, settings):
        timed.append(settings.precision)
        return 1.0 if settings.precision == "fp32" else 0.5

    monkeypatch.setattr(precision, "time_step", time_step)
    monkeypatch.setattr(precision, "has_bf16", lambda device: bf16)
    chosen, why = precision.choose_precision("auto", None, None, Settings(), device)
    assert set(timed) == {"fp32", third} - {None}
    assert chosen.precision == (third or "fp32")
    assert ("bf16 is not tried" in why) == (not bf16)


def test_fp16_that_is_asked_for_is_taken():
    chosen, why = precision.choose_precision("fp16", None, None, Settings(), CPU)
    assert (chosen.precision, why) == ("fp16", "fp16, channels_last: as requested")


class Shares:
    """Two processes' shares of a batch; in step 2 the loss of the second one is very high."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __len__(self) -> int:
        return 4

    def batch(self, step):
        size = -100.0 if (self.rank, step) == (1, 2) else 1.0 + self.rank
        return torch.tensor([[size], [-size]]), torch.tensor([0, 1])


def train_together(rank: int, port: int, path: str) -> None:
    """One of two processes, as torchrun would start it; saves its training state."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    torch.manual_seed(0)
    with processes() as group:
        model = nn.Linear(1, 2)
        settings = Settings(steps=4, batch_size=4, precision="fp16", channels_last=False)
        state = start(model, settings, group.wrap(model))
        list(train(Shares(rank), settings, state, group.earliest))
    torch.save(state.state_dict(), f"{path}{rank}")


@pytest.mark.slow
def test_processes_skip_the_same_steps(tmp_path):
    """One process's gradients overflow; both skip, because scaled gradients are averaged."""
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    path = str(tmp_path / "state")
    ranks = [forked.Process(target=train_together, args=(i, store.port, path)) for i in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    first, second = (torch.load(f"{path}{rank}") for rank in range(2))
    assert same(first["model"], second["model"])
    assert first["scaler"] == second["scaler"]
    assert first["scaler"]["scale"] == 2.0**15
    assert [state["skipped_steps"] for state in (first, second)] == [1, 1]
