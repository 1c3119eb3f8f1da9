"""The loop: the executed schedule, the arithmetic, the stop before a bad step."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from conftest import assert_prints, assert_three_lines, same
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from data.synthetic import synthetic
from experiments.ablation.questions import ABLATIONS, rows, with_warmup
from experiments.plumbing.distributed import Group
from experiments.plumbing.resume import Clock, train_resumably
from experiments.train import loop
from experiments.train.loop import (
    NEVER,
    Diverged,
    Settings,
    evaluate,
    forward,
    start,
    starts_epoch,
    train,
)

PAPER = ABLATIONS["paper"].base.settings


class Tiny:
    """Batches for a model so small that 64,000 steps take seconds."""

    images = torch.tensor([[1.0], [-1.0]])
    labels = torch.tensor([0, 1])

    def __len__(self) -> int:
        return 390

    def batch(self, step):
        return self.images, self.labels


def executed_rates(settings: Settings) -> list[float]:
    """The learning rate at every step, read from the optimiser's parameter groups."""
    state = start(nn.Linear(1, 2), settings)
    rates = []
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append({group["lr"] for group in optimizer.param_groups})
    )
    list(train(Tiny(), settings, state))
    assert all(len(groups) == 1 for groups in rates)
    return [groups.pop() for groups in rates]


def spans(values: list[float]) -> list[tuple[int, float]]:
    """Run lengths: (how many steps, at which rate)."""
    found: list[tuple[int, float]] = []
    for value in values:
        same = found and math.isclose(found[-1][1], value, rel_tol=1e-12)
        steps, rate = found.pop() if same else (0, value)
        found.append((steps + 1, rate))
    return found


# Section 4.2, literally: "We start with a learning rate of 0.1, divide it by 10 at 32k and 48k
# iterations, and terminate training at 64k"; for n = 18 "we use 0.01 to warm up the training until
# the training error is below 80% (about 400 iterations), and then go back to 0.1".
PAPER_RATES = [(400, 0.01), (31_600, 0.1), (16_000, 0.01), (16_000, 0.001)]  # of ResNet-110


@pytest.mark.slow
def test_the_rates_really_executed_are_the_papers():
    """All 64,000 steps of ResNet-110; without its warm-up, they are those of the other depths."""
    run = next(with_warmup(r) for r in rows(ABLATIONS["paper"]) if r.depth == 110)
    settings = Settings(**{**run.settings.__dict__, "channels_last": False})
    executed = spans(executed_rates(settings))
    assert [steps for steps, _ in executed] == [steps for steps, _ in PAPER_RATES]
    assert [rate for _, rate in executed] == pytest.approx([rate for _, rate in PAPER_RATES])


def test_only_depth_110_warms_up_and_does_so_in_both_arms():
    warm = {(run.network, run.depth) for run in map(with_warmup, rows(ABLATIONS["paper"]))
            if run.settings.warmup_steps}  # fmt: skip
    assert warm == {("plain", 110), ("resnet", 110)}


def test_the_triangle_rises_falls_and_never_reaches_zero():
    settings = Settings(schedule="triangle", steps=100, lr=0.4, channels_last=False)
    rates = executed_rates(settings)
    assert len(rates) == 100
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.4)
    assert 20 <= top <= 28
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    assert 0 < rates[-1] < 0.01
    assert 0 < rates[0] < 0.05


class Random:
    """Batches of random images, each a function of its step."""

    def __len__(self):
        return 4

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 8, 8, generator=generator)
        return images, torch.randint(0, 10, (8,), generator=generator)


def test_the_loop_is_sgd_with_momentum_written_out():
    """Six steps equal the paper's update rule by hand: decay on everything, then momentum."""
    settings = Settings(steps=6, batch_size=8, milestones=(3,), channels_last=False, lr=0.1)
    batches = Random()
    torch.manual_seed(3)
    state = start(zoo.build("resnet8", width=4).double(), settings)
    torch.manual_seed(3)
    model = zoo.build("resnet8", width=4).double()
    batches.batch = lambda step, draw=batches.batch: (draw(step)[0].double(), draw(step)[1])
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for step in range(6):
        images, labels = batches.batch(step)
        loss = cross_entropy(model.train()(images).float(), labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        rate = 0.1 if step < 3 else 0.01
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g + 1e-4 * p)
                p.sub_(rate * v)
    list(train(batches, settings, state))
    for ours, theirs in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_sums_are_of_the_current_epoch_and_a_last_stub_joins_the_epoch_before():
    settings = Settings(steps=10, batch_size=8)
    steps = train(Random(), settings, start(zoo.build("resnet8", width=2), settings))
    assert [state.seen for state in steps] == [8, 16, 24, 32, 8, 16, 24, 32, 40, 48]
    assert [step for step in range(1, 64_000) if starts_epoch(step, 390, 64_000)][-1] == 163 * 390


class Reads(TorchDispatchMode):
    """Counts the numbers that Python reads from tensors: on a GPU, each read waits."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("aten._local_scalar_dense", "aten.equal", "aten.nonzero", "aten.is_nonzero")
        self.count += str(func).startswith(waits)
        return func(*args, **(kwargs or {}))


def test_within_an_epoch_nothing_is_read_from_a_gpu(monkeypatch):
    """Three epochs of four steps: one read at the end of each. On a CPU, one in each step, too."""
    settings = Settings(steps=12, batch_size=8, lr=0.01)
    monkeypatch.setattr(loop, "reading_waits", lambda device: True)
    state, reads = start(zoo.build("resnet8", width=2), settings), []
    with Reads() as mode:
        for _ in train(Random(), settings, state):
            reads.append(mode.count)
    assert reads == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_sums_have_the_same_bits_as_those_of_numbers_read_in_each_step():
    settings = Settings(steps=8, batch_size=8, lr=0.05)
    torch.manual_seed(0)
    model = zoo.build("resnet8", width=4)
    state, twin = start(copy.deepcopy(model), settings), copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05, 0.9, weight_decay=1e-4)
    batches, loss_sum, wrong = Random(), 0.0, 0
    # Seven images: to multiply by 8 would be exact in any precision.
    batches.batch = lambda step, draw=batches.batch: tuple(x[:7] for x in draw(step))
    for step, _ in enumerate(train(batches, settings, state)):
        if step % 4 == 0:
            loss_sum, wrong = 0.0, 0
        images, labels = batches.batch(step)
        logits = forward(twin.train(), images, settings)
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        wrong += int((logits.argmax(1) != labels).sum())
        assert (state.loss_sum.item(), int(state.wrong)) == (loss_sum, wrong)


class Poisoned(Random):
    def batch(self, step):
        images, labels = super().batch(step)
        return (images * math.nan if step == 5 else images), labels


def test_a_gpu_finds_the_step_at_the_end_of_its_epoch_and_before_a_checkpoint(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(loop, "reading_waits", lambda device: True)
    settings, path = Settings(steps=12, batch_size=8), tmp_path / "checkpoint.pt"
    state = start(zoo.build("resnet8", width=2), settings)
    with pytest.raises(Diverged, match=r"diverged at step 5$"):
        list(train(Poisoned(), settings, state))
    assert state.step == 8
    state = start(zoo.build("resnet8", width=2), settings)
    with pytest.raises(Diverged, match=r"diverged at step 5$"):  # asked to stop within the epoch
        train_resumably(
            state, Poisoned(), settings, path, "me", Clock(), end_epoch=lambda: None,
            should_stop=lambda: state.step == 7,
        )  # fmt: skip
    assert state.step == 7
    assert not path.exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(precision):
    settings = Settings(steps=10, batch_size=8, precision=precision)
    state = start(zoo.build("resnet8", width=2), settings)
    steps, before = train(Poisoned(), settings, state), {}
    with pytest.raises(Diverged, match=r"diverged at step 5$"):
        for _ in steps:
            before = {name: value.clone() for name, value in state.model.named_parameters()}
    assert state.step == 5
    assert all(torch.equal(before[name], p) for name, p in state.model.named_parameters())
    assert all(p.isfinite().all() for p in state.model.parameters())


def test_processes_give_up_together(monkeypatch):
    """Another process's loss is not finite at its third step: this one stops there too."""
    others = iter([NEVER, NEVER, 2])

    def reduce(step, op):
        assert op == torch.distributed.ReduceOp.MIN
        step.clamp_(max=next(others))

    monkeypatch.setattr(torch.distributed, "all_reduce", reduce)
    settings = Settings(steps=6, batch_size=8, lr=0.01)
    state = start(zoo.build("resnet8", width=4), settings)
    with pytest.raises(Diverged, match="diverged at step 2"):
        list(train(Random(), settings, state, Group(size=2).earliest))
    assert state.step == 2


def test_label_smoothing_and_class_weights_are_pytorchs():
    """The loss of the first step, by its definition (Szegedy et al. 2015, section 7)."""
    weights = tuple(0.5 + 0.1 * i for i in range(10))
    settings = Settings(
        steps=1, batch_size=8, label_smoothing=0.1, class_weights=weights, channels_last=False
    )
    torch.manual_seed(0)
    model = zoo.build("resnet8", width=4)
    images, labels = Random().batch(0)
    log = copy.deepcopy(model).train()(images).log_softmax(1)
    w = torch.tensor(weights)
    smooth = 0.9 * torch.eye(10)[labels] + 0.1 / 10
    expected = -(smooth * w * log).sum() / w[labels].sum()
    (state,) = train(Random(), settings, start(model, settings))
    assert state.loss_sum / 8 == pytest.approx(expected.item(), rel=1e-5)


def test_evaluation_sums_over_images_not_batches():
    model = nn.Linear(1, 2).train()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0]))  # always predicts class 0
    sizes = [(3, 0), (1, 1)]  # 3 images of class 0, then 1 of class 1: error 1/4, not 1/2
    batches = [(torch.zeros(n, 1), torch.full((n,), label)) for n, label in sizes]
    loss, error = evaluate(model, batches, Settings(channels_last=False))
    assert error == 0.25
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert loss == pytest.approx((3 * right + wrong) / 4)
    assert not model.training


@pytest.mark.parametrize("channels_last", [False, True])
def test_precision_is_as_set_and_logits_are_fp32(channels_last):
    model, seen = zoo.build("resnet8", width=2), []
    model.stages[0][0].conv1.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    for precision in ("fp32", "bf16", "fp16"):
        settings = Settings(precision=precision, channels_last=channels_last)
        assert forward(model, torch.randn(2, 3, 8, 8), settings).dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16, torch.float16]


# --- fp16: on the CPU it is slow, and computes what a GPU computes ---


class Spiked(Tiny):
    """As Tiny, but the loss of step 3 is so high that its scaled gradients overflow in fp16."""

    def batch(self, step):
        return self.images * (-100 if step == 3 else 1), self.labels


def steps_of(batches, model: nn.Module, **settings) -> list[dict]:
    """The saved state after every step of a run with `settings`."""
    settings = Settings(steps=6, batch_size=2, channels_last=False, **settings)
    steps = train(batches, settings, start(model, settings))
    return [copy.deepcopy(state.state_dict()) for state in steps]


def test_fp16_keeps_gradients_that_are_too_small_for_fp16():
    """They are near 2e-9, which fp16 rounds to 0, yet a step is as large as in fp32."""
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[10.0], [-10.0]]))
        model.bias.zero_()
    moved = []
    for precision in ("fp32", "fp16"):
        settings = Settings(1, 2, lr=1e6, weight_decay=0, precision=precision, channels_last=False)
        (state,) = train(Tiny(), settings, start(copy.deepcopy(model), settings))
        moved.append(state.model.weight - model.weight)
        assert state.model.weight.dtype == torch.float32
    assert moved[0].abs().min() > 1e-4
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-2, atol=0)


def test_a_step_whose_gradients_overflow_is_skipped_and_counted():
    """The skipped step changes only the scale; every step keeps its batch and its rate."""
    model, asked = nn.Linear(1, 2), []
    batches = Spiked()
    batches.batch = lambda step, draw=batches.batch: (asked.append(step), draw(step))[1]
    steps = steps_of(batches, model, precision="fp16", milestones=(4,), lr=0.1)
    assert [saved["skipped_steps"] for saved in steps] == [0, 0, 0, 1, 1, 1]
    assert [saved["scaler"]["scale"] for saved in steps] == [2.0**16] * 3 + [2.0**15] * 3
    before, after = (steps[i]["optimizer"]["state"][0]["momentum_buffer"] for i in (2, 3))
    assert torch.equal(before, after)
    stayed = [torch.equal(a["model"]["weight"], b["model"]["weight"]) for a, b in pairwise(steps)]
    assert stayed == [False, False, True, False, False]
    assert asked == list(range(6))
    assert [saved["lr"] for saved in steps] == pytest.approx([0.1] * 4 + [0.01] * 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_fp16_scales_the_loss(precision):
    steps = steps_of(Spiked(), nn.Linear(1, 2), precision=precision)
    assert {saved["skipped_steps"] for saved in steps} == {0}
    assert [saved["scaler"] for saved in steps] == [{}] * 6


def test_gradients_that_overflow_at_every_scale_end_the_run():
    """The loss stays finite, but 17 halvings of the scale 2^16 make it smaller than 1."""
    model = nn.Linear(1, 2)
    model.weight.register_hook(lambda gradient: gradient * math.inf)
    settings = Settings(steps=100, batch_size=2, precision="fp16", channels_last=False)
    first, state = copy.deepcopy(model.state_dict()), start(model, settings)
    with pytest.raises(Diverged, match="diverged at step 16: gradients overflow in fp16"):
        list(train(Tiny(), settings, state))
    assert (state.step, state.skipped_steps) == (16, 16)
    assert same(model.state_dict(), first)


def test_the_defaults_are_the_papers():
    assert (PAPER.steps, PAPER.batch_size, PAPER.schedule) == (64_000, 128, "step")
    assert (PAPER.lr, PAPER.momentum, PAPER.weight_decay) == (0.1, 0.9, 1e-4)
    assert PAPER.milestones == (32_000, 48_000)


def test_the_command_trains_a_network_and_prints_a_line_per_epoch(invoke, monkeypatch):
    monkeypatch.setattr("data.synthetic.synthetic", lambda train, test: synthetic(128, 64))
    done = invoke("experiments.train", "resnet8", "--epochs", 2, "--device", "cpu")
    assert_prints(done)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("resnet8, 4,000 training")
    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 1 of 2", "epoch 2 of 2"]
    losses = [float(line.split("training loss ")[1].split(",")[0]) for line in lines[1:]]
    assert losses[1] != losses[0]
    assert invoke("experiments.train", "resnet9").returncode == 2
    assert invoke("experiments.train", "--lr", "nan").returncode == 2
    vit = invoke("experiments.train", "vit_b_16")
    assert_three_lines(vit, 2, "image_size=12", "a multiple of 16")
    diverged = invoke("experiments.train", "resnet8", "--lr", "1e30", "--device", "cpu")
    assert_three_lines(diverged, 5, "diverged at step", "a lower --lr")
