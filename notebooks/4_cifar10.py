# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # CIFAR-10: 선형 프로브에서 미세 조정까지 / CIFAR-10: from a linear probe to fine-tuning
#
# 한 단계씩 더해 봅니다: 선형 프로브(linear probe) → 데이터 증강 → 프로브에서 시작하는 미세 조정 →
# 학습률 스케줄 → ViT. 단계마다 정확도와 시간을 재고, CIFAR-10 전체로 학습하면 몇 분이 걸릴지
# 예측합니다. 흔한 실수 세 가지(테스트 세트로 에폭 고르기, `eval()` 빠뜨리기, 예측할 때 다른 정규화
# 쓰기)의 비용도 측정합니다. 작은 부분 집합만 쓰므로 여기의 정확도는 최고 기록이 아니며, 단계들을
# 비교하는 데만 씁니다. 실행 시간은 마지막 셀에 나옵니다(CPU 코어 2개). "여기서는 실행하지
# 않음"이라고 적힌 셀은 건너뜁니다.
#
# We add one step at a time: linear probe → augmentation → fine-tuning from the probe → learning
# rate schedule → ViT. We measure the accuracy and the time of each step, and forecast the minutes
# for all of CIFAR-10. We also measure the cost of three mistakes: choosing the epoch on the test
# set, forgetting `eval()`, and a different normalisation at prediction. The subset is small, so
# these accuracies are no records; they only serve to compare the steps. The last cell shows the run
# time (2 CPU cores). Cells marked "not run here" are skipped.

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
import contextlib
import copy
import shutil
import time
from dataclasses import replace

if not Path("zoo").is_dir():  # started in notebooks/
    os.chdir("..")
sys.path.insert(0, str(Path.cwd()))

import matplotlib.pyplot as plt
import torch
import torchvision.transforms as T
from IPython.display import Markdown, display
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import zoo
from data.cifar import cifar10
from experiments.classifier import load_model, predict
from experiments.drawing.style import COLOURS
from experiments.plumbing.results import read_history
from experiments.plumbing.stats import estimate
from experiments.plumbing.tables import Rows, markdown
from experiments.transfer.comparison import transfer

START = time.perf_counter()

# %% tags=["parameters"]
DATA = "cache/cifar10_subset"  # train/CLASS and test/CLASS; made below if it is missing
OUTPUT = "runs/4_cifar10"
MODEL = "resnet8"
VIT = "vit2"
SOURCE_TRAIN = 800  # images of each class
TARGET_TRAIN = 120
TARGET_VAL = 40
TARGET_TEST = 200
SOURCE_EPOCHS = 6
EPOCHS = 5
SEEDS = 3

# %% [markdown]
# ## 1. 데이터 / The data
#
# 폴더가 없으면 CIFAR-10(170 MB)을 내려받아 클래스마다 학습 이미지 1,000장과 테스트 이미지 300장을
# PNG로 저장합니다. 이때 저장된 이미지는 여기서 쓴 이미지와 다를 수 있으므로 정확도도 조금 다르게
# 나옵니다.
#
# If the folder is missing, CIFAR-10 (170 MB) is downloaded, and 1,000 training and 300 test images
# of each class are stored as PNG. Your images may not be the ones used here, so your accuracies may
# differ a little.

# %%
if not Path(DATA).exists():
    whole = cifar10()
    parts = {
        "train": (whole.train_images, whole.train_labels, 1000),
        "test": (whole.test_images, whole.test_labels, 300),
    }
    for split, (images, labels, count) in parts.items():
        for label, name in enumerate(whole.classes):
            folder = Path(DATA, split, name)
            folder.mkdir(parents=True)
            for i, image in enumerate(images[labels == label][:count]):
                T.functional.to_pil_image(image).save(folder / f"{i:04}.png")
classes = sorted(folder.name for folder in Path(DATA, "train").iterdir())
print(len(classes), "classes:", ", ".join(classes))

# %%
figure = plt.figure(figsize=(9, 2.1), dpi=65)
for column, name in enumerate(classes):
    for row, path in enumerate(sorted(Path(DATA, "train", name).iterdir())[:2]):
        panel = figure.add_subplot(2, len(classes), row * len(classes) + column + 1)
        panel.imshow(Image.open(path))
        panel.set_axis_off()
        if row == 0:
            panel.set_title(name, fontsize=8)
plt.show()

# %% [markdown]
# ## 2. 어떤 전이가 정직한 전이일까요? / What is a fair transfer?
#
# 공개된 CIFAR용 ResNet-32 가중치는 바로 이 학습 이미지로 학습한 것입니다. 이것을 CIFAR-10에
# "전이"하는 것은 전이가 아닙니다. 정답을 이미 배웠기 때문입니다. 그래서 클래스를 둘로 나눕니다.
# 앞의 절반으로 사전 학습하고, 네트워크가 본 적 없는 뒤의 절반으로 전이합니다. 두 절반은 서로
# 비슷하므로(고양이와 개, 자동차와 트럭) 전이가 쉬운 편입니다.
#
# The published ResNet-32 for CIFAR-10 was trained on these same training images, so using it here
# would be no transfer: it has already learned their labels. So we divide the classes: the network
# is pretrained on the first half and transferred to the second half, which it has never seen. The
# halves are similar (cat and dog, automobile and truck), so this transfer is easy.

# %%
half = len(classes) // 2
SOURCE, TARGET = Path(OUTPUT, "source"), Path(OUTPUT, "target")


def copy_images(folder, names, split, part, first, last):
    """Copy images `first` to `last` of each class from DATA/part to folder/split."""
    for name in names:
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        for path in sorted(Path(DATA, part, name).iterdir())[first:last]:
            shutil.copy(path, folder / split / name)


copy_images(SOURCE, classes[:half], "", "train", 0, SOURCE_TRAIN)  # one folder per class
copy_images(TARGET, classes[half:], "train", "train", 0, TARGET_TRAIN)
copy_images(TARGET, classes[half:], "val", "train", TARGET_TRAIN, TARGET_TRAIN + TARGET_VAL)
copy_images(TARGET, classes[half:], "test", "test", 0, TARGET_TEST)
print("source:", ", ".join(classes[:half]))
print("target:", ", ".join(classes[half:]))

# %% [markdown]
# 사전 학습입니다. 무작위 가중치에서 시작하므로 전략은 `scratch`입니다. 폴더에는 클래스 폴더만
# 있으므로, 그 안에서 검증 세트(val)와 테스트 세트(test)를 뽑습니다.
#
# This cell pretrains the network. Training starts from random weights, so the strategy is
# `scratch`. The folder has no splits, so val and test are drawn from it.

# %%
source = transfer(
    SOURCE, model=MODEL, weights="none", strategy="scratch", seeds=1, precision="fp32",
    epochs=SOURCE_EPOCHS, lr=0.05, output_dir=Path(OUTPUT, "pretrained"),
)  # fmt: skip
Markdown(markdown([source.parts[0]]))

# %% [markdown]
# ### ImageNet 가중치가 있다면 (여기서는 실행하지 않음) / With ImageNet weights (not run here)
#
# 인터넷이 되는 곳에서는 보통 ImageNet 가중치에서 시작합니다. 호출은 같고 이름만 다릅니다.
# `recipe="cifar10"`은 32x32 이미지를 224x224로 확대합니다. CPU에서는 몇 시간이 걸립니다.
#
# With access to the internet, one usually starts from ImageNet weights. The call is the same, only
# the names differ.
# `recipe="cifar10"` enlarges 32x32 images to 224x224. On a CPU this takes hours.

# %% tags=["not-run"]
if "google.colab" in sys.modules:
    display(transfer("cifar10", model="resnet50", weights="DEFAULT", recipe="cifar10", seeds=1))

# %% [markdown]
# ## 3. 1단계: 선형 프로브 / Step 1: a linear probe
#
# 백본(backbone)은 동결(freeze)하고 마지막 층인 헤드(head)만 학습합니다. 사전 학습된 특징이 얼마나
# 쓸모 있는지 알 수 있습니다.
#
# **흔히 쓰는 코드**: 동결된 백본을 에폭마다 다시 계산합니다.
#
# The backbone is frozen, and only the last layer (the head) is trained. This shows how useful the
# pretrained features are.
#
# **The usual cell** computes the features of the frozen backbone again in every epoch.

# %%
normalize = T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
to_tensor = T.Compose([T.ToTensor(), normalize])
loaders = {
    split: DataLoader(ImageFolder(TARGET / split, to_tensor), 32, shuffle=split == "train")
    for split in ("train", "val", "test")
}


def usual_model(seed=0):
    """The pretrained network with a new head."""
    torch.manual_seed(seed)
    return zoo.load(zoo.build(MODEL, len(classes) - half), source.best, drop="head")


def right_of(model, loader):
    """For each image, whether it is classified correctly: bool (N,)."""
    with torch.no_grad():
        return torch.cat([model(images).argmax(1) == labels for images, labels in loader])


model = usual_model()
for parameter in model.parameters():
    parameter.requires_grad = False
for parameter in model.head.parameters():
    parameter.requires_grad = True
optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-3)

begin = time.perf_counter()
for _ in range(EPOCHS):
    model.eval()  # a frozen backbone must not move its BatchNorm statistics
    for images, labels in loaders["train"]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
usual_seconds = time.perf_counter() - begin
usual_probe = right_of(model.eval(), loaders["test"]).float().mean().item()
print(f"usual: {100 * usual_probe:.1f} % on test, {EPOCHS} epochs, {usual_seconds:.1f} s")

# %% [markdown]
# **skipzoo에서는**: 특징을 한 번만 계산하고 로지스틱 회귀로 헤드를 학습합니다. 해가 하나뿐이라
# 에폭도 학습률도 필요 없습니다. 모든 단계가 옵션을 함께 쓰므로 짧은 함수로 묶습니다. 에폭마다
# 나오는 줄은 로그 파일에 기록합니다.
#
# **Here** the features are computed once, and logistic regression fits the head. It has one
# solution, so there are no epochs and no learning rate. All steps share options, which a short
# function sets. The lines of the epochs go to a log file.

# %%
steps = {}  # name -> the rows of its runs, one for each seed


def step(*strategies, name="", **options):
    """Train strategies with all seeds; keep the rows, and return the Results."""
    settings = {"model": MODEL, "weights": source.best, "epochs": EPOCHS, "seeds": SEEDS}
    settings |= {"strategy": strategies, "output_dir": Path(OUTPUT, name or "steps")} | options
    with Path(OUTPUT, "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        results = transfer(TARGET, precision="fp32", **settings)  # the same on every machine
    for row in results.rows:
        rows = steps.setdefault(name or row["run"]["strategy"], [])
        rows.append(row | {"folder": results.folder / row["name"]})
    return results


def accuracy(name):
    """Test accuracy of a step in percent: mean over seeds and 95 % interval."""
    return estimate([row["accuracy"] for row in steps[name]]).show(1, 100)


step("linear-probe")
row = steps["linear-probe"][0]
print(f"usual: {100 * usual_probe:.1f} %, {usual_seconds:.1f} s")
print(f"here:  {100 * row['accuracy']:.1f} %, {row['seconds']:.1f} s, {row['images']} images")

# %% [markdown]
# **달라진 점과 이유**: 백본이 동결되어 있으면 특징은 에폭마다 같으므로 한 번만 계산하면 됩니다.
# 위의 두 줄이 비용입니다. 흔히 쓰는 코드는 훨씬 오래 걸렸는데도 아직 수렴하지 않았습니다. 학습률과
# 에폭 수를 따로 골라야 하기 때문입니다. 시드는 하나이고, 이미지 수는 위에 있습니다.
#
# **What changed and why**: with a frozen backbone the features are the same in every epoch, so it
# is enough to compute them once. The two lines above compare the cost. The usual cell takes far
# longer and has not converged yet, since its learning rate and epochs have to be chosen. There is
# one seed; the number of images is above.

# %% [markdown]
# ## 4. 2단계: 데이터 증강 / Step 2: augmentation
#
# 이미지를 매번 조금씩 다르게 자르고 뒤집습니다. 그러면 특징을 미리 계산해 둘 수 없고, 에폭마다
# 백본을 다시 계산해야 합니다(특징 추출, feature extraction).
#
# **흔히 쓰는 코드**: `RandomCrop(32, padding=4)`와 좌우 뒤집기입니다. 이미지 한 장이 어떻게
# 바뀌는지 봅니다.
#
# Each time, an image is cropped and flipped a little differently. So features cannot be computed in
# advance: the backbone has to run in every epoch (feature extraction).
#
# **The usual cell** uses `RandomCrop(32, padding=4)` and a horizontal flip. The next cell shows its
# effect on one image.

# %%
augment = T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip()])
image, _ = ImageFolder(TARGET / "train")[0]
torch.manual_seed(0)
figure = plt.figure(figsize=(9, 1.5), dpi=80)
for column in range(8):
    panel = figure.add_subplot(1, 8, column + 1)
    panel.imshow(augment(image) if column else image)
    panel.set_title("augmented" if column else "image", fontsize=8)
    panel.set_axis_off()
plt.show()

# %% [markdown]
# **skipzoo에서는**: `feature-extraction`이 같은 헤드를 증강된 이미지로
# 학습합니다(`RandomResizedCrop`, 뒤집기). 배치 정규화(BatchNorm) 통계는 바뀌지 않습니다.
#
# **Here** `feature-extraction` trains the same head on augmented images (`RandomResizedCrop`,
# flips). BatchNorm statistics do not change.

# %%
step("feature-extraction")
for name in ("linear-probe", "feature-extraction"):
    print(f"{name:18} {accuracy(name)} %, {steps[name][0]['seconds']:.1f} s a run")

# %% [markdown]
# **달라진 점과 이유**: 헤드는 작은 선형 층이라 과적합될 여지가 적습니다. 그래서 증강으로 얻을 수
# 있는 이득은 작고, 시간은 확실히 더 걸립니다. 위에서는 이득이 보이지 않습니다. 두 가지가 한꺼번에
# 바뀌었습니다. 이미지를 많이 잘라 내는 강한 증강(넓이의 35 %까지만 남기기도 함)을 썼고, 정확한 해
# 대신 SGD로 몇 에폭만 학습했습니다. 두 가지 각각의 효과는 이 실행만으로 알 수 없습니다.
#
# **What changed and why**: the head is a small linear layer, which can hardly overfit. So
# augmentation can gain little, and it always takes longer. Above, no gain is visible. Two things
# changed at once: crops are strong (down to 35 % of the image), and a few epochs of SGD replace the
# exact solution. These runs cannot tell the effect of each.

# %% [markdown]
# ## 5. 3단계: 프로브에서 시작하는 미세 조정 / Step 3: fine-tuning from the probe
#
# 이제 모든 가중치를 낮은 학습률로 학습합니다. 헤드가 이미 맞춰져 있으므로 첫 기울기(gradient)가
# 백본을 망가뜨리지 않습니다(lp-ft, Kumar et al. 2022).
#
# **흔히 쓰는 코드**: 프로브를 마친 뒤 네트워크의 동결을 해제합니다(unfreeze). 그런데 옵티마이저는
# 여전히 헤드만 알고 있습니다!
#
# Now all weights are trained, at a low learning rate. The head is trained already, so the first
# gradients do not damage the backbone (lp-ft, Kumar et al. 2022).
#
# **The usual cell** unfreezes the network after the probe. But the optimiser still has only the
# head's parameters!

# %%
for parameter in model.parameters():
    parameter.requires_grad = True  # "unfrozen"
before = model.stem.conv.weight.clone()
images, labels = next(iter(loaders["train"]))
nn.functional.cross_entropy(model(images), labels).backward()
optimizer.step()
held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
print(f"the network has {sum(p.numel() for p in model.parameters()):,} parameters")
print(f"the optimiser has {held:,}")
print(f"change of the first convolution: {(model.stem.conv.weight - before).abs().max().item()}")

# %% [markdown]
# **skipzoo에서는**: `lp-ft`는 프로브를 마친 뒤 모든 파라미터로 새 옵티마이저를 만듭니다. 비교를
# 위해 `finetune`(새 헤드로 바로 미세 조정)과 `scratch`(무작위 가중치에서 시작)도 학습합니다.
#
# **Here** `lp-ft` makes a new optimiser for all parameters after the probe. For comparison, we
# train `finetune` (at once, from a new head) and `scratch` (from random weights).

# %%
step("lp-ft", "finetune", "scratch")

# %% [markdown]
# **달라진 점과 이유**: 옵티마이저는 만들 때 받은 파라미터만 바꿉니다. 동결을 해제한 뒤에
# 옵티마이저를 만들거나 `add_param_group`으로 추가하세요. 위에서 첫 합성곱(convolution)의 변화는
# 정확히 0이었고, 오류도 경고도 없었습니다. 위의 표를 보면 `lp-ft`의 평균이 새 헤드로 바로 시작하는
# `finetune`의 평균보다 높습니다. `lp-ft`는 학습된 헤드에서 시작하고, 학습률은 `finetune`의 10분의
# 1입니다. 어느 쪽 덕분인지는 이 실행만으로 알 수 없습니다. 프로브보다 나은지도 알 수 없습니다.
# `lp-ft`의 신뢰구간이 프로브의 값을 포함하기 때문입니다. `scratch`와의 차이가 사전 학습의
# 효과입니다.
#
# **What changed and why**: an optimiser changes only the parameters it was given. Make it after
# unfreezing, or use `add_param_group`. Above, the first convolution changed by exactly 0, without
# an error or a warning. In the table above, the mean of `lp-ft` is higher than that of `finetune`,
# which starts from a new head. `lp-ft` starts from a trained head, at a tenth of `finetune`'s
# learning rate; these runs cannot tell which of these helps. Nor can they tell whether `lp-ft` is
# better than the probe: its interval includes the probe's value. The difference to `scratch` is the
# gain from pretraining.

# %% [markdown]
# ## 6. 4단계: 학습률 스케줄 / Step 4: the schedule
#
# **흔히 쓰는 코드**: `StepLR(step_size=5)`는 에폭을 세도록 쓴 것입니다. `scheduler.step()`을
# 배치마다 호출하면 첫 에폭 안에 학습률이 거의 0이 됩니다.
#
# **The usual cell** has `StepLR(step_size=5)`, which is meant to count epochs. If
# `scheduler.step()` is called after each batch, the learning rate becomes tiny within the first
# epoch.

# %%
for place in ("each epoch", "each batch"):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.1)
    optimizer.step()  # one epoch; the batches are left out
    for _ in range(len(loaders["train"]) if place == "each batch" else 1):
        scheduler.step()
    print(f"scheduler.step() {place}: lr after 1 epoch {scheduler.get_last_lr()[0]:.1e}")

# %% [markdown]
# **skipzoo에서는**: 학습률은 스텝의 함수이고, 옵션 하나로 고릅니다. 같은 `lp-ft`를 세 가지
# 스케줄로 학습합니다.
#
# **Here** the learning rate is a function of the step, and one option chooses it. We train the same
# `lp-ft` with three schedules.

# %%
step("lp-ft", name="lp-ft, step", lr_scheduler="step", lr_step_size=max(1, EPOCHS // 2))
step("lp-ft", name="lp-ft, none", lr_scheduler="none")
schedules = {"cosine": "lp-ft", "step": "lp-ft, step", "none": "lp-ft, none"}
figure = plt.figure(figsize=(9, 3), dpi=80, layout="constrained")
rates, curves = figure.subplots(1, 2)
for colour, (schedule, name) in zip(COLOURS, schedules.items(), strict=False):
    print(f"{schedule:6} {accuracy(name)} %")
    histories = [read_history(row["folder"]) for row in steps[name]]
    epochs, val = histories[0]["epoch"], [history["val_accuracy"] for history in histories]
    rates.plot(epochs, histories[0]["lr"], "o-", color=colour, label=schedule)
    curves.plot(epochs, 100 * torch.tensor(val).mean(0), "o-", color=colour, label=schedule)
rates.set(xlabel="epoch", ylabel="learning rate at its end")
curves.set(xlabel="epoch", ylabel="val accuracy (%)", title=f"mean of {SEEDS} seeds")
rates.legend()
plt.show()

# %% [markdown]
# **달라진 점과 이유**: 스케줄은 학습이 끝날 무렵 학습률을 낮추어 가중치가 안정되게 합니다.
# 학습률이 낮고 에폭이 적으면 차이는 작습니다. 차이가 위의 신뢰구간보다 작으므로, 이 실행만으로는
# 어느 스케줄이 나은지 알 수 없습니다.
#
# **What changed and why**: a schedule lowers the learning rate at the end, so the weights change
# less. With a low rate and few epochs the difference is small. It is smaller than the intervals
# above: these runs cannot tell which schedule is better.

# %% [markdown]
# ## 7. 5단계: ViT (`vit_b_16`: 여기서는 실행하지 않음) / Step 5: ViT (`vit_b_16`: not run here)
#
# `vit_b_16`의 ImageNet 가중치는 여기서 내려받을 수 없으므로 호출만 보여 줍니다. 대신 작은 ViT를
# 무작위 가중치에서부터 학습합니다. 사전 학습하지 않은 ViT는 이미지가 적으면 약합니다. 이것은
# `vit_b_16`의 결과가 아닙니다.
#
# The ImageNet weights of `vit_b_16` cannot be downloaded here, so the next cell only shows the
# call. Instead, we train a small ViT from random weights. Without pretraining, a ViT is weak on few
# images. This is not `vit_b_16`'s result.

# %% tags=["not-run"]
if "google.colab" in sys.modules:
    display(transfer(TARGET, model="vit_b_16", strategy=["linear-probe", "lp-ft"]))

# %%
print(", ".join(zoo.list_models("vit*")))
step("scratch", name=f"{VIT}, scratch", model=VIT, weights="none", opt="adamw", lr=1e-3)
for name in (f"{VIT}, scratch", "scratch"):
    print(f"{name:14} {accuracy(name)} %")

# %% [markdown]
# ## 8. 모든 단계와 시간 예측 / All steps and the forecast
#
# 시간 예측: 여기서 실행 한 번에 걸린 시간(초)에 이미지 수의 비율을 곱합니다. CIFAR-10 전체는 학습
# 세트와 검증 세트를 합쳐 50,000장(클래스 10개)이고, 에폭 수는 같습니다. 이미지 한 장에 걸리는
# 시간은 일정하다고 봅니다. 정확도는 예측하지 않습니다. 이미지가 늘면 오르겠지만, 얼마나 오를지는
# 이 실행만으로 알 수 없습니다.
#
# To forecast the time, we multiply the seconds of a run by the ratio of the image counts. All of
# CIFAR-10 is 50,000 images of train and val (ten classes); the number of epochs stays the same. We
# assume a constant time per image. We do not forecast the accuracy: it will rise with more images,
# but these runs cannot tell how far.

# %%
images = row["images"]
factor = 50_000 / (images["train"] + images["val"])
lines = []
for name, rows in steps.items():
    seconds = estimate([row["seconds"] for row in rows]).mean
    val = estimate([row["best_val_accuracy"] for row in rows]).show(1, 100)
    times = [f"{seconds:.1f}", f"{seconds * factor / 60:.1f}"]
    lines.append([name, accuracy(name), val, *times, f"{len(rows)}"])
header = ("step", "test accuracy %", "val accuracy %", "seconds a run", "minutes for all", "seeds")
print(f"{images}; mean ± 95 % interval over seeds; {row['device']}; forecast: x {factor:.1f}")
Markdown(markdown([Rows(header, lines)]))

# %% [markdown]
# 예측은 맞을까요? 2절에서 같은 네트워크를 더 많은 이미지로 더 많은 에폭 동안 사전 학습했습니다.
# `scratch`의 시간으로 그 사전 학습 시간을 예측해 봅니다. 컴퓨터에서 다른 프로그램이 돌고 있으면
# 예측이 어긋납니다. 선형 프로브는 시드와 상관없이 해가 하나입니다. 그래서 위의 신뢰구간이 0입니다.
#
# Is the forecast right? Section 2 pretrained the same network on more images and for more epochs.
# We forecast its time from that of `scratch`. Other programs on the machine change the times. The
# linear probe has one solution, whatever the seed, so its interval above is 0.

# %%
small, large = steps["scratch"][0], source.rows[0]
counts = [row["images"]["train"] + row["images"]["val"] for row in (small, large)]
ratio = counts[1] / counts[0] * SOURCE_EPOCHS / EPOCHS
print(f"{counts[0]:,} images, {EPOCHS} epochs: {small['seconds']:.1f} s")
forecast, measured = ratio * small["seconds"], large["seconds"]
print(f"{counts[1]:,} images, {SOURCE_EPOCHS} epochs: forecast {forecast:.1f} s")
print(f"measured {measured:.1f} s: a factor of {measured / forecast:.2f}")

# %% [markdown]
# ## 9. 실수 1: 테스트 세트로 에폭 고르기 / Mistake 1: choosing the epoch on the test set
#
# **흔히 쓰는 코드**: 에폭마다 테스트 정확도를 재고 가장 좋은 값을 보고합니다. 두 방법을 비교하려고
# 여기서는 검증(val) 정확도도 함께 기록합니다.
#
# **The usual cell** measures test accuracy after each epoch and reports the best one. Here we
# record val accuracy, too, to compare the two ways.

# %%
rights = {"val": [], "test": []}  # for each seed: bool (epochs, images)
for seed in range(SEEDS):
    model = usual_model(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    history = {split: [] for split in rights}
    for _ in range(EPOCHS):
        model.train()
        for images, labels in loaders["train"]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()
        for split in rights:
            history[split].append(right_of(model, loaders[split]))
    for split in rights:
        rights[split].append(torch.stack(history[split]))
    val, test = (100 * torch.stack(history[split]).float().mean(1) for split in rights)
    print(f"seed {seed}: best on test {test.max():.1f} %, chosen on val {test[val.argmax()]:.1f} %")

# %% [markdown]
# **skipzoo에서는** 검증 세트(val)로 에폭을 고르고, 테스트 세트는 한 번만 봅니다. 차이에는 우연이
# 섞여 있습니다. 그래서 테스트 이미지를 무작위로 둘로 나눕니다. 한쪽에서 에폭을 고른 다음, 그쪽의
# 정확도와 고를 때 쓰지 않은 다른 쪽의 정확도를 비교합니다.
#
# **Here** val chooses the epoch, and test is used once. Part of the difference between the two ways
# is chance. So we divide the test images at random, choose an epoch on one part, and compare its
# accuracy on this part with that on the other part.

# %%
val = torch.stack(rights["val"]).float().mean(2)  # (seeds, epochs)
test = torch.stack(rights["test"]).float()  # (seeds, epochs, images)
chosen = test.mean(2).gather(1, val.argmax(1, keepdim=True))[:, 0]
gain = 100 * (test.mean(2).max(1).values - chosen)
gain = estimate(gain.tolist())
print(f"best on test minus chosen on val: {gain.show(1)} points, n = {gain.n} seeds")
generator = torch.Generator().manual_seed(0)
total = test.shape[2]
for n in (total // 10, total // 2):
    flattery = []
    for _ in range(200):
        order = torch.randperm(total, generator=generator)
        seen, fresh = test[:, :, order[:n]].mean(2), test[:, :, order[n:]].mean(2)
        best = seen.argmax(1, keepdim=True)
        flattery.append(100 * (seen.gather(1, best) - fresh.gather(1, best)).mean().item())
    mean = sum(flattery) / len(flattery)
    print(f"chosen on {n} test images, they flatter by {mean:.1f} points (200 random divisions)")

# %% [markdown]
# **비용**: 위에 나온 %p 차이입니다. 시드가 3개뿐이라 첫 줄의 신뢰구간은 0을 포함합니다. 다음 두
# 줄이 더 정확합니다: 고를 때 쓴 이미지가 적을수록 정확도가 더 부풀려집니다. 좋아 보일 뿐, 모델이
# 실제로 좋아진 것은 아닙니다.
#
# **The cost** is the points above. With only three seeds, the first line's interval includes 0. The
# next two lines are more precise: the accuracy is overestimated more if the epoch is chosen on
# fewer images. The model only looks better; it is not.

# %% [markdown]
# ## 10. 실수 2: `eval()` 빠뜨리기, 한 장 배치 / Mistake 2: a forgotten `eval()`, and a batch of one
#
# `train()` 모드의 BatchNorm은 배치의 평균과 분산을 씁니다. 그래서 예측이 같은 배치에 든 다른
# 이미지에 따라 달라지고, 한 장만 넣으면 그 한 장의 통계만 씁니다. 게다가 예측할 때마다 저장된
# 통계가 바뀝니다.
#
# In `train()` mode, BatchNorm uses the mean and variance of the batch. So a prediction depends on
# the other images of its batch; in a batch of one, on that image's own statistics. Each prediction
# also changes the stored statistics.

# %%
classifier = load_model(steps["lp-ft"][0]["folder"] / "best.safetensors")
test_set = ImageFolder(TARGET / "test", T.PILToTensor())
pictures = torch.stack([image for image, _ in test_set])  # uint8 (N, 3, 32, 32)
labels = torch.tensor(test_set.targets)


def percent(logits):
    return f"{100 * (logits.argmax(1) == labels).float().mean().item():.1f} %"


normalized = normalize(pictures / 255)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))  # classes mixed
print("eval():                    ", percent(classifier.logits(pictures)))
for size in (64, 8, 1):
    model = copy.deepcopy(classifier.model).train()  # eval() was forgotten
    logits = torch.empty(len(labels), len(classifier.classes))
    with torch.no_grad():
        for chunk in order.split(size):
            logits[chunk] = model(normalized[chunk])
    print(f"train(), batches of {size:2}:      ", percent(logits))
with torch.no_grad():
    print("eval() after those batches: ", percent(model.eval()(normalized)))
print(f"n = {len(labels)} images, one network")

# %% [markdown]
# **skipzoo에서는** `predict`와 `Classifier.logits`가 늘 `eval()` 모드로 계산합니다. 그래서 한 장씩
# 넣어도 같은 답이 나옵니다. 마지막 줄은 한 장씩 예측하는 동안 저장된 통계가 바뀐 뒤의
# 정확도입니다. 나중에 `eval()`을 호출해도 통계는 되돌아오지 않습니다. 클래스가 섞인 큰 배치에서는
# 거의 차이가 없습니다. 그래서 이 실수는 작은 배치로, 특히 이미지를 한 장씩 예측하는 서비스에서야
# 드러납니다.
#
# **Here** `predict` and `Classifier.logits` always use `eval()` mode, so one image at a time gives
# the same answers. The last line is the accuracy after the predictions one by one in `train()` mode
# have changed the stored statistics. Calling `eval()` later does not restore them. In large batches
# of mixed classes there is hardly a difference. So this mistake only shows with small batches, and
# most in a service that predicts one image at a time.

# %% [markdown]
# ## 11. 실수 3: 예측할 때 다른 정규화 쓰기 / Mistake 3: a different normalisation at prediction
#
# 네트워크는 ImageNet의 평균과 표준편차로 정규화한 이미지로 학습했습니다. 예측 코드를 다른
# 노트북에서 복사해 오면 이 숫자가 달라집니다.
#
# The network was trained with ImageNet's mean and std. If you copy the prediction code from another
# notebook, these numbers change.

# %%
print("as trained:             ", percent(classifier.logits(pictures)))
others = {
    "CIFAR-10's mean, std:   ": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "0.5, 0.5:               ": ((0.5,) * 3, (0.5,) * 3),
    "ToTensor only:          ": ((0.0,) * 3, (1.0,) * 3),
    "0 to 255, not divided:  ": ((0.0,) * 3, (1 / 255,) * 3),
}
for name, (mean, std) in others.items():
    view = replace(classifier.view, mean=mean, std=std)
    print(name, percent(replace(classifier, view=view).logits(pictures)))
print("BGR (OpenCV):           ", percent(classifier.logits(pictures.flip(1))))
print(f"n = {len(labels)} images, one network")

# %% [markdown]
# **skipzoo에서는** 전처리가 체크포인트 안에 있습니다. 파일만 옮기면 클래스 이름과 정규화도 함께
# 따라갑니다. 체크포인트를 셀에 쓰면 그 내용이 아래처럼 표시됩니다.
#
# **Here** the checkpoint contains the preprocessing and the class names, so they are always with
# the weights. The next cell shows them.

# %%
classifier

# %%
predict(classifier, next(iter(sorted(Path(TARGET, "test", classifier.classes[0]).iterdir()))))

# %% [markdown]
# ## 정리 / Summary
#
# - 선형 프로브부터 시작하세요. 몇 초면 끝나고, 특징이 얼마나 쓸모 있는지 알 수 있습니다. 미세
#   조정은 거기서 시작합니다.
# - 단계마다 여러 시드의 차이와 그 신뢰구간을 보세요. 신뢰구간에 0이 들어 있으면 "알 수 없다"가
#   답입니다.
# - 에폭은 검증 세트(val)로 고르고, 테스트 세트는 한 번만 보세요. 예측할 때는 `eval()`과 학습 때의
#   정규화를 쓰세요.
# - 다음 노트북 `5_resnet_by_hand`에서 이런 네트워크를 직접 만듭니다.
#
# - Begin with a linear probe: it takes seconds, and shows how useful the features are. Fine-tuning
#   starts from the probe.
# - At each step, look at the difference over several seeds and its interval. If that contains 0,
#   the answer is "cannot tell".
# - Choose the epoch on val, and use test once. Predict with `eval()` and the normalisation used in
#   training.
# - Next: `5_resnet_by_hand` builds such a network.

# %%
minutes = (time.perf_counter() - START) / 60
print(f"this notebook took {minutes:.1f} minutes with {torch.get_num_threads()} thread(s)")
