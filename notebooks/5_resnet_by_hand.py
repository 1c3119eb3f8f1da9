# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # ResNet 직접 만들기 / ResNet by hand
#
# 합성곱(convolution) 하나에서 시작해 BasicBlock을 만들고, 그것으로 ResNet을 만듭니다. 단계마다
# 텐서의 모양(shape)을 확인합니다. 그다음 스킵 연결(skip connection)을 빼고 무엇이 달라지는지
# 측정합니다: 학습 곡선, 층별 기울기(gradient), 블록 하나 지우기. 흔한 오류도 일부러 내 봅니다:
# 모양 불일치, 아주 작은 배치의 배치 정규화(batch norm), `map_location`. 실행 시간은 마지막 셀에
# 나옵니다(CPU 코어 2개). "여기서는 실행하지 않음"이라고 적힌 셀은 건너뜁니다.
#
# We build a BasicBlock from convolutions, and a ResNet from BasicBlocks. Each step shows the shapes
# of its tensors. Then we remove the skips and measure what changes: training curves, gradients by
# layer, and the effect of deleting one block. We also cause common errors on purpose: a shape
# mismatch, batch norm with tiny batches, `map_location`. The last cell shows the run time (2 CPU
# cores). Cells marked "not run here" are skipped.

# %% [markdown]
# ## 준비 / Setup
#
# 아래 셀은 Colab에서만 실행됩니다. 저장소를 복제(clone)하고 설치합니다. 커널에 이미 있는 torch는
# 그대로 둡니다. `URL` 자리에 저장소 주소를 넣으세요. (여기서는 실행하지 않음)
#
# The next cell runs in Colab only. It clones and installs the repository, and keeps the installed
# torch. Replace `URL` by the repository's address. (not run here)

# %% tags=["not-run"]
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules and not Path("zoo").is_dir():
    import subprocess

    os.chdir("/content")
    subprocess.run(["git", "clone", "URL", "skipzoo"], check=True)
    os.chdir("skipzoo")
    install = [sys.executable, "-m", "pip", "install", "-q", "-e", ".[experiments]"]
    subprocess.run(install, check=True)

# %%
import copy
import re
import time
from functools import partial
from unittest import mock

if not Path("zoo").is_dir():  # started in notebooks/
    os.chdir("..")
sys.path.insert(0, str(Path.cwd()))

import matplotlib.pyplot as plt
import torch
import torchvision.transforms as T
from IPython.utils.capture import capture_output
from torch import nn
from torch.nn.functional import cross_entropy, relu
from torchvision.datasets import ImageFolder

import zoo
from experiments.ablation.campaign import ablate
from experiments.classifier import load_model
from zoo.blocks import BasicBlock
from zoo.plain import PlainBasicBlock
from zoo.resnet import CifarStem
from zoo.resnet import ResNet as ZooResNet

START = time.perf_counter()

# %% tags=["parameters"]
OUTPUT = "runs/5_resnet_by_hand"
DEPTHS = [8, 32]  # layers: 6n + 2
SEEDS = 3
EPOCHS = 3
TRAIN_IMAGES = 4000
JOBS = None  # runs at the same time; None: one per core
GRADIENT_DEPTH = 56
# Li et al.'s ResNet-56 with and without skips, and CIFAR-10's test images (notebook 4 stores some)
RESIDUAL_WEIGHTS = "cache/li-resnet56.t7"
PLAIN_WEIGHTS = "cache/li-resnet56_noshort.t7"
TEST_FOLDER = "cache/cifar10_subset/test"
TEST_IMAGES = 200

# %% [markdown]
# ## 1. 합성곱 하나 / One convolution
#
# 3x3 합성곱은 픽셀마다 그 주변 3x3 픽셀의 가중합을 구합니다. 이미지 한 장의 모양은 `(1, 3, 32,
# 32)`입니다: 배치, 채널, 높이, 너비. 출력의 한 변은 `(H + 2 * padding - kernel) // stride +
# 1`입니다. 아래에서 출력값 하나를 손으로 계산해 비교합니다.
#
# For each pixel, a 3x3 convolution computes a weighted sum of the 3x3 pixels around it. One image
# has the shape `(1, 3, 32, 32)`: batch, channels, height, width. A side of the output is `(H + 2 *
# padding - kernel) // stride + 1` pixels long. Below, we compute one output number by hand and
# compare.

# %%
torch.manual_seed(0)
sample = torch.randn(1, 3, 32, 32)
conv = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
print("input                    ", tuple(sample.shape))
print("weights                  ", tuple(conv.weight.shape), f"= {conv.weight.numel()} numbers")
print("3x3, padding 1           ", tuple(conv(sample).shape))
print("3x3, padding 0           ", tuple(nn.Conv2d(3, 16, 3)(sample).shape))
print("3x3, padding 1, stride 2 ", tuple(nn.Conv2d(3, 16, 3, 2, 1)(sample).shape))
print("1x1, stride 2            ", tuple(nn.Conv2d(3, 16, 1, 2)(sample).shape))

by_hand = (sample[0, :, 4:7, 9:12] * conv.weight[0]).sum()  # around row 5, column 10
print("by hand minus conv:", (by_hand - conv(sample)[0, 0, 5, 10]).abs().item())

# %% [markdown]
# ## 2. 배치 정규화와 ReLU / Batch norm and ReLU
#
# 배치 정규화는 채널마다 배치 전체의 평균을 빼고 표준편차로 나눕니다. 모양은 그대로입니다. 학습
# 중에는 이동 평균(running average)도 저장합니다.
#
# Batch norm subtracts each channel's mean over the batch and divides by its standard deviation. The
# shape does not change. In training, batch norm also stores running averages.

# %%
norm = nn.BatchNorm2d(16)
x = conv(torch.randn(8, 3, 32, 32))
y = norm(x)
print(f"before: mean {x[:, 0].mean():+.3f}, std {x[:, 0].std():.3f}", tuple(x.shape))
print(f"after:  mean {y[:, 0].mean():+.3f}, std {y[:, 0].std():.3f}", tuple(y.shape))
print(
    f"stored: mean {norm.running_mean[0]:+.3f}, var {norm.running_var[0]:.3f}, a tenth of the way"
)
print(f"after ReLU: minimum {relu(y).min():.0f}, zeros {100 * (relu(y) == 0).float().mean():.0f} %")

# %% [markdown]
# ## 3. 잔차 블록과 모양 불일치 / A residual block, and the shape mismatch
#
# **흔히 쓰는 코드**: 합성곱 두 개를 지난 출력 `F(x)`에 입력 `x`를 더합니다. 채널 수와 크기가
# 그대로면 잘 됩니다. 스테이지(stage)의 첫 블록에서는 높이와 너비가 절반이 되고 채널이 두 배가
# 됩니다. 그러면 더할 수 없습니다.
#
# **The usual cell** adds the input `x` to `F(x)`, the output of two convolutions. This works if
# both have the same channels and size. But the first block of a stage halves height and width and
# doubles the channels. Then `x` and `F(x)` cannot be added.


# %%
class FirstTry(nn.Module):
    """`y = relu(F(x) + x)`"""

    def __init__(self, in_channels, channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def residual(self, x):
        return self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))  # no ReLU: F(x) may be negative

    def forward(self, x):
        return relu(self.residual(x) + x)


x = torch.randn(1, 16, 32, 32)
print("FirstTry(16, 16):", tuple(x.shape), "->", tuple(FirstTry(16, 16)(x).shape))
block = FirstTry(16, 32, stride=2)
print("FirstTry(16, 32, stride=2): F(x)", tuple(block.residual(x).shape), "and x", tuple(x.shape))
try:
    block(x)
except RuntimeError as error:
    print("RuntimeError:", error)

# %% [markdown]
# **고치는 법**: 지름길 연결(shortcut)에 1x1 합성곱을 둡니다. 이 합성곱이 채널 수를 맞추고, **같은
# 스트라이드**(stride)로 크기도 맞춥니다. 스트라이드를 빠뜨리면 같은 오류가 다시 납니다. 모양이
# 그대로인 블록에서는 지름길 연결이 `x` 자체이고 파라미터가 없습니다.
#
# **The fix** is a 1x1 convolution in the shortcut. It changes the channels and, with **the same
# stride**, the size. Without the stride, the error comes back. If the shape does not change, the
# shortcut is `x` itself, without parameters.


# %%
class Block(FirstTry):
    """`y = relu(F(x) + shortcut(x))`"""

    def __init__(self, in_channels, channels, stride=1):
        super().__init__(in_channels, channels, stride)
        self.shortcut = nn.Sequential()  # x itself
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        return relu(self.residual(x) + self.shortcut(x))


block = Block(16, 32, stride=2)
print("shortcut", tuple(block.shortcut(x).shape), "and F(x)", tuple(block.residual(x).shape))
print("Block(16, 32, stride=2):", tuple(x.shape), "->", tuple(block(x).shape))
try:
    block.residual(x) + nn.Conv2d(16, 32, 1)(x)  # the stride was forgotten
except RuntimeError as error:
    print("without the stride:", error)

# %% [markdown]
# **skipzoo에서는**: `zoo.blocks.BasicBlock`이 같은 블록입니다. 같은 가중치를 넣으면 출력의 차이가
# 정확히 0입니다.
#
# **Here**: `zoo.blocks.BasicBlock` is the same block. With the same weights, the outputs differ by
# exactly 0.


# %%
def same_weights(ours, mine):
    """Copy the weights of `mine` into `ours`: other names, but the same order."""
    ours.load_state_dict(dict(zip(ours.state_dict(), mine.state_dict().values(), strict=True)))
    return ours


ours = same_weights(BasicBlock(16, 32, stride=2), block)
for mine, theirs in zip(block.state_dict(), ours.state_dict(), strict=True):
    print(f"{mine:30} {theirs}")
print("largest difference:", (ours(x) - block(x)).abs().max().item())

# %% [markdown]
# ## 4. `ResNet(2)`: 스테이지마다 블록 두 개 / Two blocks per stage
#
# CIFAR용 ResNet(He et al. 2015, 4.2절)은 합성곱 하나, 스테이지 세 개(채널 16, 32, 64), 평균
# 풀링(average pooling), 선형 층으로 이루어집니다. 스테이지마다 블록이 n개이면 층은 `6n +
# 2`개입니다. 모양이 바뀌는 곳에서 논문은 스킵 연결에 0으로 된 채널을 덧붙이고(option A), 여기서는
# 1x1 합성곱(option B)을 씁니다. 아래에서 이미지 한 장이 지나가면서 모양이 어떻게 바뀌는지 모두
# 봅니다.
#
# A ResNet for CIFAR (He et al. 2015, section 4.2) has a convolution, three stages (16, 32, 64
# channels), average pooling and a linear layer. With n blocks per stage it has `6n + 2` layers.
# Where the shape changes, the paper adds channels of zeros to the skip (option A); here it is the
# 1x1 convolution (option B). Below are the shapes of all outputs for one image.


# %%
class ResNet(nn.Module):
    """(N, 3, H, W) -> (N, classes)"""

    def __init__(self, n, block=Block, classes=10):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.stages, in_channels = nn.Sequential(), 16
        for channels in (16, 32, 64):
            stage = nn.Sequential()
            for i in range(n):
                stride = 2 if channels > 16 and i == 0 else 1  # the first block halves the map
                stage.append(block(in_channels, channels, stride))
                in_channels = channels
            self.stages.append(stage)
        self.head = nn.Linear(64, classes)

    def forward(self, images):
        x = self.stages(relu(self.bn(self.conv(images))))
        return self.head(x.mean((2, 3)))


def show_shapes(model, images):
    """Print the output shape and the parameters of the parts of a model."""

    def printer(name):
        def hook(module, inputs, output):
            depth = name.count(".")
            count = sum(p.numel() for p in module.parameters())
            print(f"{'  ' * depth + name:26} {tuple(output.shape)!s:18} {count:>8,} parameters")

        return hook

    shown = re.compile(r"conv|bn|stages|stages\.\d(\.\d)?(\.(conv|bn)\d)?|head|.*shortcut")
    parts = [(name, part) for name, part in model.named_modules() if shown.fullmatch(name)]
    hooks = [part.register_forward_hook(printer(name)) for name, part in parts]
    model.eval()(images)
    for hook in hooks:
        hook.remove()


torch.manual_seed(0)
model = ResNet(2)
print(f"{'input':26} {tuple(sample.shape)}")
show_shapes(model, sample)
layers = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
print(f"{sum(p.numel() for p in model.parameters()):,} parameters;", end=" ")
print(f"6n + 2 = {6 * 2 + 2} layers, and {len(layers) - 14} projections in shortcuts")

# %% [markdown]
# **skipzoo에서는**: `zoo.resnet`의 `ResNet`과 비교합니다. 출력과 모든 기울기의 차이가 0입니다.
# 이름이 있는 네트워크(`resnet20`, `resnet56` ...)는 `zoo.build`로 만듭니다. 초기 가중치는 논문을
# 따릅니다(He 초기화).
#
# **Here** we compare it with `ResNet` of `zoo.resnet`. Outputs and all gradients differ by 0.
# `zoo.build` makes networks by name (`resnet20`, `resnet56` ...). Their initial weights follow the
# paper (He initialisation).

# %%
make_block = partial(BasicBlock, shortcut="projection")
ours = same_weights(ZooResNet(CifarStem(16), make_block, (2, 2, 2), 16, 10), model)
images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
gradients = []
for network in (ours, model):
    loss = cross_entropy(network.train()(images), labels)
    gradients.append(torch.autograd.grad(loss, list(network.parameters())))
with torch.no_grad():
    outputs = [network.eval()(images) for network in (ours, model)]
print("largest difference of outputs:  ", (outputs[0] - outputs[1]).abs().max().item())
differences = [(a - b).abs().max().item() for a, b in zip(*gradients, strict=True)]
print("largest difference of gradients:", max(differences), f"({len(differences)} tensors)")
print("by name:", ", ".join(zoo.list_models("resnet*")[:6]), "...")

# %% [markdown]
# ## 5. 스킵 연결 없이 / Without skips
#
# 같은 블록에서 덧셈만 뺍니다. 맞춰야 할 모양이 없으므로 1x1 합성곱도 필요 없습니다. `zoo.plain`의
# 블록과 비교합니다.
#
# We remove the addition from the same block. Then no shapes have to match, so it needs no 1x1
# convolution. We compare it with the block of `zoo.plain`.


# %%
class PlainBlock(FirstTry):
    """`y = relu(F(x))`"""

    def forward(self, x):
        return relu(self.residual(x))


torch.manual_seed(0)
plain = ResNet(2, PlainBlock)
print(f"{sum(p.numel() for p in plain.parameters()):,} parameters without skips")
block = PlainBlock(16, 32, stride=2)
ours = same_weights(PlainBasicBlock(BasicBlock(16, 32, 2)), block)
print("largest difference:", (ours(x) - block(x)).abs().max().item())
print("by name:", ", ".join(zoo.list_models("plain[0-9]*")[:6]), "...")

# %% [markdown]
# ## 6. 에스컬레이터 비유 / The escalator
#
# 스킵 연결은 계단 옆의 에스컬레이터와 같습니다. 층(블록)마다 계단이 일을 하지만, 입력은
# 에스컬레이터를 타고 그 층을 지나칠 수 있습니다. 기울기는 에스컬레이터를 타고 반대 방향으로
# 돌아옵니다. 그래서 계단 하나가 나빠도 길이 끊기지 않습니다. 아래의 "블록 하나 지우기"에서 볼 수
# 있습니다. 비유의 한계: 사람은 둘 중 하나를 고르지만 신호는 **둘 다** 지나가고, 그 결과가
# 더해집니다. 덧셈 뒤의 ReLU와 1x1 합성곱은 신호를 바꿉니다. 그리고 에스컬레이터가 있다고 해서
# 계단이 저절로 좋은 것을 학습하지는 않습니다.
#
# A skip is like an escalator beside the stairs. On each floor (block) the stairs do some work, but
# the input can also take the escalator past the floor. Gradients take it in the other direction. So
# one bad flight of stairs does not block the way: "deleting one block" below shows this. Limits of
# the analogy: a person chooses one of the two, but the signal takes **both**, and the results are
# added. The ReLU after the addition and the 1x1 convolutions do change the signal. And an escalator
# alone does not make the stairs learn anything good.

# %%
torch.manual_seed(0)
x = relu(torch.randn(1, 16, 8, 8)).requires_grad_()
for name, block in (("residual", Block(16, 16)), ("plain", PlainBlock(16, 16))):
    nn.init.zeros_(block.bn2.weight)  # the stairs are closed: F(x) = 0
    (gradient,) = torch.autograd.grad(block(x).sum(), x)
    passed = torch.equal(block(x), x)
    print(f"{name:8} block with F(x) = 0: output is x: {passed},", end=" ")
    print(f"largest gradient of x: {gradient.abs().max().item():.0f}")

# %% [markdown]
# ## 7. 학습 곡선과 판정 / Curves and a verdict
#
# **흔히 쓰는 코드**: 깊은 네트워크 두 개를 한 번씩 학습하고 곡선을 비교합니다. 시드가 하나라서
# 우연일 수도 있습니다. **skipzoo에서는**: 깊이 두 가지를 스킵 연결이 있을 때와 없을 때로 나누어,
# 같은 초기 가중치와 같은 배치로, 여러 시드로 학습합니다. 이미지는 코드로 그리므로 내려받을 것이
# 없습니다. 판정은 시드별로 짝지은 차이의 95 % 신뢰구간을 보고 내립니다.
#
# **The usual cell** trains two deep networks once and compares their curves. With one seed, the
# difference may be chance. **Here** we train two depths, with and without skips, with several
# seeds. Networks with and without skips start from the same initial weights and get the same
# batches. The images are drawn by code, so nothing is downloaded. The verdict comes from the 95 %
# interval of the difference, paired by seed.

# %%
with capture_output(stderr=False):  # the reports after each seed
    results = ablate(
        "quick", depths=DEPTHS, seeds=SEEDS, epochs=EPOCHS, train_images=TRAIN_IMAGES, jobs=JOBS,
        precision="fp32", output_dir=Path(OUTPUT, "ablation"),
    )  # fmt: skip
results

# %% [markdown]
# **달라진 점과 이유**: 깊어질 때 *학습* 손실이 어떻게 변하는지가 질문입니다. 테스트 정확도만으로는
# 이것을 과적합과 구별할 수 없습니다. 위의 판정은 이 작은 이미지, 이 학습률, 이 에폭 수에만
# 해당합니다. n은 시드의 수입니다.
#
# **What changed and why**: the question is how the *training* loss changes with depth. Test
# accuracy alone cannot tell this from overfitting. The verdict above holds for these small images,
# this learning rate and this number of epochs. n is the number of seeds.

# %% [markdown]
# ## 8. 층별 기울기 / Gradients by layer
#
# **흔히 쓰는 코드**: `loss.backward()` 다음에 합성곱마다 기울기의 크기를 봅니다. 흔히 "스킵 연결이
# 없으면 기울기가 사라진다"라고 설명합니다. 학습을 시작할 때 정말 그런지, 배치 정규화가 있을 때와
# 없을 때를 봅니다.
#
# **The usual cell** shows the size of each convolution's gradient after `loss.backward()`. The
# usual explanation is "without skips, gradients vanish". We check whether this is so for the
# initial weights, with and without batch norm.


# %%
def gradient_norms(model, images, labels):
    """L2 norm of the gradient of each convolution outside shortcuts, first to last."""
    cross_entropy(model.train()(images), labels).backward()
    layers = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "short" not in n]
    return [layer.weight.grad.norm().item() for layer in layers]


torch.manual_seed(0)
images, labels = torch.randn(32, 3, 16, 16), torch.arange(32) % 10
figure = plt.figure(figsize=(9, 3.2), dpi=80, layout="constrained")
for panel, norm in zip(figure.subplots(1, 2), ("batch", "none"), strict=True):
    for kind, colour in (("resnet", "#0072B2"), ("plain", "#D55E00")):
        torch.manual_seed(0)  # the twins start from the same weights
        network = zoo.build(f"{kind}{GRADIENT_DEPTH}", norm=norm)
        norms = gradient_norms(network, images, labels)
        panel.semilogy(
            range(1, len(norms) + 1), norms, ".-", color=colour, label=f"{kind}{GRADIENT_DEPTH}"
        )
        print(f"{kind}{GRADIENT_DEPTH}, norm {norm:5}: first layer {norms[0]:.2e},", end=" ")
        print(f"last {norms[-1]:.2e}, first / last {norms[0] / norms[-1]:.1e}")
    panel.set(title=f"norm: {norm}, initial weights, one seed", xlabel="layer")
    panel.set(ylabel="L2 norm of the gradient")
    panel.legend()
plt.show()

# %% [markdown]
# 배치 정규화가 있으면 학습을 시작할 때 기울기가 사라지지 않습니다. plain 네트워크에서는 오히려 첫
# 층으로 갈수록 **커집니다**(위의 first / last). 스킵 연결이 있으면 층마다 훨씬 고릅니다. 배치
# 정규화가 없으면, plain 네트워크의 기울기는 모든 층에서 작고 residual 네트워크의 기울기는 모든
# 층에서 큽니다. 그러므로 "기울기 소실(vanishing gradient)"은 배치 정규화가 있는 plain 네트워크가
# 깊어질수록 나빠지는 이유가 아닙니다. He et al.(4.1절)도 그렇게 썼습니다. 층마다 기울기의 크기가
# 이렇게 다르면 학습률 하나로 다루기 어렵습니다. 하지만 그것이 원인이라고 이 그림만으로 말할 수는
# 없습니다. 시드 하나, 무작위 이미지로 만든 배치 하나의 결과이기 때문입니다.
#
# With batch norm, gradients do not vanish at the start. In the plain network they even **grow**
# towards the first layer (first / last above). With skips they differ far less between layers.
# Without batch norm, the plain network's gradients are small in all layers, and the residual
# network's are large in all layers. So vanishing gradients are not the reason why plain networks
# with batch norm get worse with depth; He et al. (section 4.1) say so, too. If gradients differ so
# much between layers, no single learning rate suits all of them. But this figure alone does not
# show that this is the cause: it has one seed and one batch of random images.

# %% [markdown]
# ## 9. 블록 하나 지우기 / Deleting one block
#
# 학습된 네트워크에서 블록 하나를 지웁니다(Veit et al. 2016). 모양을 바꾸지 않는 블록만 지울 수
# 있습니다. 가중치는 Li et al.(2018)의 CIFAR-10용 ResNet-56으로, 스킵 연결이 있는 것과 없는 것
# 하나씩입니다. 저자들의 저장소(github.com/tomgoldstein/loss-landscape)에서 받아 `cache/`에
# 넣으세요. 파일이 없으면 위에서 학습한 네트워크와 코드로 그린 이미지를 씁니다.
#
# We delete one block of a trained network (Veit et al. 2016). Only blocks that keep the shape can
# be deleted. The weights are Li et al.'s (2018) ResNet-56 for CIFAR-10, one with skips and one
# without. Get them from the authors' repository (github.com/tomgoldstein/loss-landscape) and put
# them into `cache/`. If these files are missing, the cell uses the networks trained above and drawn
# images.

# %%
if all(Path(path).exists() for path in (RESIDUAL_WEIGHTS, PLAIN_WEIGHTS, TEST_FOLDER)):
    trained = {
        "residual": zoo.load(zoo.build("resnet56", shortcut="projection"), RESIDUAL_WEIGHTS, "li"),
        "plain": zoo.load(zoo.build("plain56"), PLAIN_WEIGHTS, "li"),
    }
    mean, std = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
    test_set = ImageFolder(TEST_FOLDER, T.Compose([T.ToTensor(), T.Normalize(mean, std)]))
    chosen = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(0))[:TEST_IMAGES]
    images = torch.stack([test_set[i][0] for i in chosen.tolist()])
    labels = torch.tensor(test_set.targets)[chosen]
    print(f"ResNet-56 and plain-56 of Li et al., {len(labels)} test images of CIFAR-10")
else:
    from data.synthetic import synthetic

    names = {"residual": "resnet", "plain": "plain"}
    folder, depth = Path(OUTPUT, "ablation"), max(DEPTHS)
    files = {k: folder / f"{v}{depth}-seed0/final.safetensors" for k, v in names.items()}
    loaded = {kind: load_model(path) for kind, path in files.items()}
    trained = {kind: classifier.model for kind, classifier in loaded.items()}
    view, drawn = loaded["plain"].view, synthetic(1, TEST_IMAGES)
    labels = drawn.test_labels
    images = torch.stack([view(image) for image in drawn.test_images]) / 255
    images = T.Normalize(view.mean, view.std)(images)
    print(f"the networks trained above, {depth} layers, {len(labels)} drawn test images")


def accuracy(model, batch_size=100):
    """Accuracy in percent, in the model's mode."""
    with torch.no_grad():
        predicted = torch.cat([model(batch).argmax(1) for batch in images.split(batch_size)])
    return 100 * (predicted == labels).float().mean().item()


figure = plt.figure(figsize=(9, 3), dpi=80, layout="constrained")
panel = figure.subplots()
for (kind, model), colour in zip(trained.items(), ("#0072B2", "#D55E00"), strict=True):
    whole, damaged = accuracy(model.eval()), {}
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage):
            if i == 0 or j > 0:  # the first block of a later stage changes the shape
                stage[j] = nn.Identity()  # the block is gone; a ResNet's x rides past
                damaged[i * len(stage) + j] = accuracy(model)
                stage[j] = block
    label = f"{kind}, one block deleted"
    panel.plot(list(damaged), list(damaged.values()), "o", color=colour, label=label)
    panel.axhline(whole, color=colour, ls="--", label=f"{kind}, whole")
    mean = sum(damaged.values()) / max(1, len(damaged))
    print(f"{kind:8} whole {whole:.1f} %; one of {len(damaged)} blocks deleted:", end=" ")
    worst, best = min(damaged.values()), max(damaged.values())
    print(f"mean {mean:.1f} %, worst {worst:.1f} %, best {best:.1f} %")
panel.set(xlabel="deleted block", ylabel="accuracy (%)", ylim=(0, 100))
panel.legend(fontsize=8, loc="center left")
plt.show()

# %% [markdown]
# 스킵 연결이 있으면 블록 하나가 없어도 정확도가 조금만 떨어집니다. `x`가 그 블록을 지나쳐 가기
# 때문입니다. 스킵 연결이 없으면 블록 하나만 없어도 정확도가 87 %에서 평균 16 %로 떨어집니다(블록에
# 따라 4~36 %). 위에서 평균과 최악의 블록, 이미지 수를 보세요. 이미지가 200장일 때 점 하나의
# 불확실성은 최대 ±7 %p입니다. 그래서 지웠을 때 네트워크가 "더 좋아진" 블록은 우연일 수 있습니다.
# 네트워크는 종류마다 하나씩입니다. 스킵 연결이 있다고 해서 모든 블록이 똑같이 없어도 되는 것은
# 아닙니다. 모양을 바꾸는 블록은 여기서 지우지 않았습니다.
#
# With skips, deleting one block costs little accuracy: `x` passes through the shortcut. Without
# skips, it brings the accuracy down from 87 % to 16 % in the mean (4 to 36 %, depending on the
# block). See the means and the worst blocks above, and the number of images. With 200 images, each
# accuracy is uncertain by up to ±7 points. So if a network seems better without a block, this may
# be chance. There is one network of each kind. Even with skips, some blocks matter more than
# others. Blocks that change the shape were not deleted here.

# %% [markdown]
# ## 10. 아주 작은 배치의 배치 정규화 / Batch norm with tiny batches
#
# `train()` 모드의 BatchNorm은 배치의 통계를 씁니다. 배치가 작으면 통계에 잡음이 많습니다. 서로
# 다른 값이 두 개면 크기와 상관없이 출력이 거의 ±1이 되고, 값이 하나뿐이면 오류가 납니다.
#
# In `train()` mode, BatchNorm uses the statistics of the batch. In a small batch they are noisy. If
# there are two different values, the outputs are about ±1, however large the values are. A single
# value is an error.

# %%
model = copy.deepcopy(trained["residual"])
print(f"eval():                 {accuracy(model.eval()):.1f} %")
for size in (32, 2, 1):
    damaged = copy.deepcopy(model).train()  # a copy: train() mode changes the stored statistics
    print(f"train(), batches of {size:2}:  {accuracy(damaged, size):.1f} %")
print(f"n = {len(labels)} images, one network, in random order")

norm = nn.BatchNorm1d(1)
print("BatchNorm of (3, 5):  ", norm(torch.tensor([[3.0], [5.0]])).flatten().tolist())
print("BatchNorm of (-90, 7):", norm(torch.tensor([[-90.0], [7.0]])).flatten().tolist())
try:
    zoo.build("resnet18", 10).train()(torch.randn(1, 3, 32, 32))  # its last maps are 1x1
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# **달라진 점과 이유**: ImageNet용 ResNet은 32x32 이미지를 1x1 특징 맵(feature map)으로 줄입니다.
# 그래서 학습할 때 마지막 배치에 한 장만 남으면 이 오류가 납니다. 고치는 법: 학습에는
# `DataLoader(..., drop_last=True)`, 예측에는 `eval()`을 쓰세요. skipzoo의 학습 루프는 다 차지 않은
# 마지막 배치를 쓰지 않습니다. 특징 맵이 1x1보다 크면 한 장으로도 오류가 나지 않습니다. 위의
# 숫자처럼 소리 없이 틀릴 뿐입니다.
#
# **What changed and why**: an ImageNet ResNet reduces 32x32 images to 1x1 feature maps. So if the
# last training batch has one image, this error occurs. The fix is `DataLoader(..., drop_last=True)`
# in training, and `eval()` for prediction. Our training loop drops an incomplete last batch. With
# feature maps larger than 1x1, one image raises no error, but the output is wrong, as the numbers
# above show.

# %% [markdown]
# ## 11. GPU 없이 열기: `map_location` / Loading without a GPU: `map_location`
#
# GPU에서 저장한 파일을 GPU가 없는 컴퓨터에서 열면 오류가 납니다. 여기에는 GPU가 없으므로, GPU에서
# 저장할 때 남는 표시(`cuda:0`)가 든 파일을 만듭니다.
#
# A file saved on a GPU does not load on a computer without one. There is no GPU here, so we make a
# file with the device tag that a GPU leaves (`cuda:0`).

# %%
path = Path(OUTPUT, "from_gpu.pth")
with mock.patch("torch.serialization.location_tag", return_value="cuda:0"):
    torch.save(zoo.build("resnet20").state_dict(), path)
try:
    torch.load(path)  # the usual cell
    print("this computer has a GPU, so the file opens")
except RuntimeError as error:
    print("RuntimeError:", str(error).split(". ")[0])
state = torch.load(path, map_location="cpu", weights_only=True)
print('map_location="cpu":', len(state), "tensors on", state["head.weight"].device)
network = zoo.load(zoo.build("resnet20"), path)  # here: no argument is needed
print("zoo.load:", next(network.parameters()).device)

# %% [markdown]
# **skipzoo에서는** `zoo.load`가 늘 CPU로 읽고, 이름과 모양을 모두 확인합니다. 그다음
# `network.to("cuda")`로 옮깁니다. `weights_only=True`는 파일에 든 코드가 실행되지 않게 막습니다.
#
# **Here** `zoo.load` always loads to the CPU and checks all names and shapes. Then
# `network.to("cuda")` moves the network to the GPU. `weights_only=True` prevents code in the file
# from running.

# %% [markdown]
# ## 정리 / Summary
#
# - 스킵 연결 하나는 덧셈 하나입니다. 모양이 바뀌는 블록에서만 1x1 합성곱이나 0으로 된 채널이
#   필요합니다(`zoo/shortcuts.py`).
# - 깊어질 때 학습 손실을 보세요. 여러 시드로 내린 판정이 곡선 하나보다 낫습니다.
# - 배치 정규화는 배치 크기의 영향을 받습니다. 예측은 `eval()` 모드로 하세요.
# - 다음에 읽을 파일: `zoo/blocks.py`, `zoo/plain.py`. 그리고 `make ablation`도 실행해 보세요.
#
# - A skip is one addition. Only blocks that change the shape need a 1x1 convolution or channels of
#   zeros (`zoo/shortcuts.py`).
# - Look at the training loss as depth grows. Several seeds and a verdict are better than one curve.
# - In `train()` mode, batch norm depends on the batch size. Predict in `eval()` mode.
# - Read next: `zoo/blocks.py`, `zoo/plain.py`, and `make ablation`.

# %%
minutes = (time.perf_counter() - START) / 60
print(f"this notebook took {minutes:.1f} minutes with {torch.get_num_threads()} thread(s)")
