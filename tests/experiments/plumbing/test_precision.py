"""What is chosen by timing; and fp16 in processes that train together."""

import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from conftest import forked, same
from torch import nn

import zoo
from experiments.ablation.runs import Data, Run, run_one
from experiments.plumbing import precision
from experiments.plumbing.distributed import ALONE, processes
from experiments.plumbing.results import write_json
from experiments.train.loop import Settings, start, train
from experiments.transfer import comparison
from zoo.fold import has_compiler

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
    monkeypatch.setattr(precision, "rounding_error", lambda *_: 0.0)
    chosen, why = precision.choose_precision("auto", None, None, Settings(), device)
    assert set(timed) == {"fp32", third} - {None}
    assert chosen.precision == (third or "fp32")
    assert ("bf16 is not tried" in why) == (not bf16)


def test_fp16_that_is_asked_for_is_taken():
    chosen, why = precision.choose_precision("fp16", None, None, Settings(), CPU)
    assert (chosen.precision, why) == ("fp16", "fp16, channels_last: as requested")


class Features(nn.Module):
    """Features that are differences of two layers, without skips around them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def features(self, x):
        return self.layer(x).mean((2, 3))

    forward = features


@pytest.mark.parametrize(("constant", "low", "high"), [(0, 1e-4, 0.05), (1000, 1, 100)])
def test_bf16_is_left_out_if_rounding_changes_the_features(monkeypatch, constant, low, high):
    """Numbers near 1000 are rounded by up to 2: images that differ by 1 become alike."""
    images = constant + torch.randn(8, 3, 4, 4)
    batches = SimpleNamespace(batch=lambda step: (images, torch.arange(8) % 2))
    model, bf16 = Features().train(), Settings(precision="bf16")
    share = precision.rounding_error(model, batches, bf16)
    assert low < share < high
    assert model.training
    monkeypatch.setattr(precision, "time_step", lambda model, batches, s: s.precision == "fp32")
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    words = f"rounding to bf16 changes this network's features by {100 * share:.0f} %"
    for requested in ("auto", "bf16", "fp32"):
        chosen, why = precision.choose_precision(requested, model, batches, Settings(), CPU)
        assert (words in why) == (share > 0.3 and requested != "fp32")
        kept = requested == "bf16" or (requested == "auto" and share < 0.3)
        assert (chosen.precision == "bf16") == kept
    assert precision.rounding_error(nn.Flatten(), batches, Settings()) == 0  # the same for fp32


def test_features_that_are_all_the_same_have_no_rounding_error():
    batches = SimpleNamespace(batch=lambda step: (torch.ones(8, 3, 4, 4), torch.zeros(8)))
    assert precision.rounding_error(Features(), batches, Settings(precision="bf16")) == 0


@pytest.mark.parametrize("strategies", [("finetune", "scratch"), ("scratch", "partial")])
def test_transfer_tries_precisions_on_the_pretrained_network(monkeypatch, tmp_path, strategies):
    """Not on that of scratch, whose random weights say nothing about rounding."""
    tried = {}
    monkeypatch.setattr(comparison, "to_time", lambda run, *_: tried.setdefault(run.strategy, 1))
    monkeypatch.setattr(comparison, "settle", lambda path, about, asked, device, models, group: (
        [make() for make in models.values()]
    ))  # fmt: skip
    options = comparison.Options("x", model=("resnet8",), strategy=strategies, weights="x.pth")
    comparison.settle_precision(options, None, CPU, tmp_path, ALONE)
    assert tried.keys() == {*strategies} - {"scratch"}


@pytest.mark.parametrize(("device", "images"), [(CPU, 4), (CUDA, 32)])
def test_on_a_gpu_precisions_are_tried_on_a_whole_batch(monkeypatch, tmp_path, device, images):
    sizes = []
    monkeypatch.setattr(comparison, "to_time", lambda run, size, *_: sizes.append(size))
    monkeypatch.setattr(comparison, "settle", lambda path, about, asked, device, models, group: (
        [make() for make in models.values()]
    ))  # fmt: skip
    options = comparison.Options("x", model=("resnet8",), weights="x.pth")
    comparison.settle_precision(options, None, device, tmp_path, ALONE)
    assert sizes == [images]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "low", "high"),
    [("resnet56", "li-resnet56.t7", 0.002, 0.05), ("plain56", "li-resnet56_noshort.t7", 0.3, 3)],
)
def test_rounding_grows_in_a_deep_plain_network(real_data, real_cifar10, name, file, low, high):
    """Trained networks of Li et al. on CIFAR-10; in autocast to bf16, plain-56 loses 12 points."""
    settings = {} if name == "plain56" else {"shortcut": "projection"}
    weights = real_data / "weights" / file
    model = zoo.load(zoo.build(name, **settings), weights, dialect="li")
    images = (real_cifar10.test_images[:64].float() / 255 - 0.47) / 0.25
    batches = SimpleNamespace(batch=lambda step: (images, real_cifar10.test_labels[:64]))
    assert low < precision.rounding_error(model, batches, Settings(precision="bf16")) < high


# --- torch.compile, chosen by timing ---


def choose(monkeypatch, eager: float, first: float, later: float, steps: int) -> tuple[bool, str]:
    """choose_compile, with these seconds instead of measured ones."""
    times = iter([first, *[later] * 6])
    monkeypatch.setattr(precision, "time_step", lambda *_: eager)
    monkeypatch.setattr(precision, "compile_training", lambda model: model)
    monkeypatch.setattr(precision, "seconds_of_pass", lambda *_: next(times))
    settings, why = precision.choose_compile(nn.Linear(1, 2), None, Settings(), steps, "fp32")
    return settings.compiled, why.removeprefix("fp32; ")


@pytest.mark.parametrize(("steps", "pays"), [(2_000, False), (4_000, True)])
def test_the_time_to_compile_counts(monkeypatch, steps, pays):
    """30 s to compile, 10 ms a step gained: 3,000 steps are the limit."""
    chosen, why = choose(monkeypatch, 0.03, 30.0, 0.02, steps)
    assert chosen == pays
    assert why.endswith("compiled: 30.0 ms a step, compiled 20.0 ms after 30 s")
    assert why.startswith("not compiled") == (not pays)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("no triton here\nand more lines"), "no triton here"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_compiler_that_fails_leaves_the_run_eager(monkeypatch, error, words):
    def fails(model):
        def compute(images):
            raise error

        return compute

    monkeypatch.setattr(precision, "compile_training", fails)
    flat = Settings(channels_last=False)
    batches = SimpleNamespace(batch=lambda step: (torch.ones(2, 1), torch.tensor([0, 1])))
    chosen, why = precision.choose_compile(nn.Linear(1, 2), batches, flat, 100, "fp32")
    assert chosen == flat
    assert why == f"fp32; not compiled: torch.compile failed ({words})"


def test_no_pass_adds_to_the_gradients_of_the_one_before(monkeypatch):
    """A CUDA graph overwrites its gradients, and refuses the next pass if any are left."""
    seen = []

    def compile_training(model):
        def compute(images):
            seen.append([p.grad for p in model.parameters()])
            return model(images)

        return compute

    monkeypatch.setattr(precision, "compile_training", compile_training)
    batches = SimpleNamespace(batch=lambda step: (torch.ones(2, 1), torch.tensor([0, 1])))
    precision.choose_compile(nn.Linear(1, 2), batches, Settings(channels_last=False), 9, "fp32")
    assert seen == [[None, None]] * 7


def test_a_process_compiles_more_than_eight_architectures(monkeypatch):
    """All are of one class: PyTorch's limit of programs for one function would be reached."""
    monkeypatch.setattr(torch, "compile", partial(without_code, torch.compile))
    compiled = torch._dynamo.utils.counters["frames"]
    for width in range(4, 14):
        model = zoo.build("resnet8", width=width)
        compute = precision.compile_training(model)
        before = compiled["ok"]
        compute(torch.zeros(2, 3, 8, 8))
        assert compiled["ok"] > before, width


def without_code(compiler, model, **options):
    """torch.compile without generating code, which takes a minute."""
    return compiler(model, backend="eager", dynamic=options.get("dynamic"))


@pytest.mark.parametrize(("device", "steps", "asked"), [(CUDA, 9, 1), (CUDA, 0, 0), (CPU, 9, 0)])
def test_the_choice_is_stored_and_made_once(monkeypatch, tmp_path, capsys, device, steps, asked):
    """Only on a GPU, and not with --compile off (no steps)."""
    calls = []

    def choose_compile(model, batches, settings, steps, why):
        calls.append((settings.precision, steps))
        return replace(settings, compiled=True), f"{why}; compiled: it pays"

    monkeypatch.setattr(precision, "choose_compile", choose_compile)
    monkeypatch.setattr(precision, "rounding_error", lambda *_: 0.0)
    models = {"resnet8": lambda: (None, None)}
    for _ in range(2):
        settled = precision.settle(
            tmp_path / "campaign.json", {}, "bf16", device, models, ALONE, steps
        )
        assert settled["resnet8"] == Settings(precision="bf16", compiled=bool(asked))
    assert calls == [("bf16", 9)] * asked
    assert ("compiled: it pays" in capsys.readouterr().out) == bool(asked)


def test_folders_of_earlier_versions_were_not_compiled(tmp_path):
    entry = {"precision": "fp32", "channels_last": True, "reason": "as requested"}
    write_json(tmp_path / "campaign.json", {"models": {"resnet8": entry}})
    settled = precision.settle(
        tmp_path / "campaign.json", {}, "fp32", CUDA, {"resnet8": None}, ALONE, 9
    )
    assert not settled["resnet8"].compiled


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
def test_a_compiled_run_trains_the_same_network(tmp_path):
    """On a CPU: run_one with `compiled` ends near the weights of the eager run."""
    ends = []
    for compiled in (False, True):
        settings = Settings(steps=4, batch_size=8, lr=0.01, compiled=compiled)
        data = Data(size=8, train_images=32, test_images=10)
        run, folder = Run("resnet", 8, data=data, settings=settings), tmp_path / str(compiled)
        assert run_one(run, folder, CPU)
        ends.append(torch.cat([v.flatten().float() for v in load_weights(folder).values()]))
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)


def load_weights(folder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "final.safetensors")


# --- fp16 in several processes ---


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
