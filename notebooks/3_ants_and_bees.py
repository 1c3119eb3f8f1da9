# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 개미와 벌: PyTorch 튜토리얼 제대로 하기 / Ants and bees: PyTorch's tutorial, done right
#
# 변환(transform) 하나하나가 이미지를 어떻게 바꾸는지 살펴보고, 튜토리얼의 학습 루프를 한 줄씩
# 이해합니다. `zero_grad`, `train()`과 `eval()`, `set_grad_enabled`가 왜 필요한지 측정해서
# 확인합니다. 모든 셀을 실행하는 데 CPU 코어 2개로 약 1분 걸렸습니다. "여기서는 실행하지
# 않음"이라고 적힌 셀은 아무 일도 하지 않습니다.
#
# We look at what each transform does to an image, and explain the tutorial's training loop line by
# line. We measure what happens without `zero_grad`, `train()` and `eval()`, and `set_grad_enabled`.
# All cells took about a minute on 2 CPU cores. Cells marked "not run here" are skipped.

# %%
import os
import sys
from pathlib import Path

if not Path("zoo").is_dir():  # the kernel started in notebooks/
    os.chdir("..")
sys.path.insert(0, str(Path.cwd()))

# %% [markdown]
# **Colab (여기서는 실행하지 않음 / not run here)**: 이 셀은 저장소를 복제(clone)하고 설치합니다.
# 커널에 이미 있는 torch는 그대로 둡니다. `URL` 자리에 저장소 주소를 넣으세요.
#
# In Colab, this cell clones and installs the repository. It keeps the installed torch. Replace
# `URL` by the repository's address.

# %% tags=["not-run"]
if "google.colab" in sys.modules and not Path("zoo").is_dir():
    import subprocess

    os.chdir("/content")
    subprocess.run(["git", "clone", "URL", "skipzoo"], check=True)
    os.chdir("skipzoo")
    install = [sys.executable, "-m", "pip", "install", "-q", "-e", ".[experiments]"]
    subprocess.run(install, check=True)
    sys.path.insert(0, str(Path.cwd()))

# %% [markdown]
# ## 설정 / Settings
#
# 튜토리얼은 25에폭 동안 학습합니다. 여기서는 시간을 아끼려고 더 적게 학습합니다. ImageNet 가중치를
# 내려받을 수 없어서 CIFAR-10으로 학습한 ResNet-32를 씁니다. 보통은 `MODEL = "resnet18"`로
# 설정합니다. 내 이미지를 쓰려면 `DATA`를 바꾸세요: `train/`과 `val/`이 있는 폴더입니다.
#
# The tutorial trains for 25 epochs. To save time, we train for fewer. ImageNet weights cannot be
# downloaded here, so we use a ResNet-32 trained on CIFAR-10. The usual setting is `MODEL =
# "resnet18"`. For your own images, set `DATA` to a folder with `train/` and `val/`.

# %% tags=["parameters"]
DATA = "cache/hymenoptera_data"
MODEL = "resnet32"
WEIGHTS = "DEFAULT"
EPOCHS = 6
RUNS = "runs/ants_and_bees"
IMAGENET = False  # True: also run the cells that download ImageNet weights

# %% [markdown]
# PyTorch 튜토리얼의 개미와 벌 사진을 처음 한 번만 내려받습니다. 학습 폴더의 `imageNotFound.gif`는
# 사진이 아니므로 지웁니다. 가중치는 처음 쓸 때 내려받습니다.
#
# This cell downloads the photos of PyTorch's tutorial (ants and bees), once. `imageNotFound.gif` in
# the training folder is not a photo, so we delete it. The weights are downloaded when first used.

# %%
import zipfile

from torch.hub import download_url_to_file

Path("cache").mkdir(exist_ok=True)
if DATA == "cache/hymenoptera_data" and not Path(DATA).exists():
    url = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
    download_url_to_file(url, "cache/hymenoptera_data.zip", progress=False)
    zipfile.ZipFile("cache/hymenoptera_data.zip").extractall("cache")
(Path(DATA) / "train/ants/imageNotFound.gif").unlink(missing_ok=True)
for folder in sorted(Path(DATA).glob("*/*")):
    print(f"{folder.parent.name}/{folder.name}: {len(list(folder.iterdir()))} images")

# %% [markdown]
# ## 1. 변환을 하나씩 / One transform at a time
#
# 학습할 때는 이미지를 매번 다르게 자르고 뒤집습니다(데이터 증강, data augmentation). 검증할 때는
# 늘 똑같이 자릅니다. `scale`은 잘라 낸 부분의 넓이 비율, `ratio`는 잘라 낸 부분의 가로/세로 비율,
# `p`는 뒤집을 확률입니다.
#
# In training, an image is cropped and flipped differently each time (augmentation). In validation,
# it is always cropped the same way. `scale` is the crop's share of the area, `ratio` is its width /
# height, and `p` is the probability of a flip.

# %%
import matplotlib.pyplot as plt
import torch
from PIL import Image
from torchvision import transforms

files = sorted(Path(DATA).glob("train/*/*"))
photo = Image.open(files[0]).convert("RGB")
side = 96
rows = {
    "RandomResizedCrop\nscale 0.08 to 1": transforms.RandomResizedCrop(side),
    "RandomResizedCrop\nscale 0.35 to 1": transforms.RandomResizedCrop(side, scale=(0.35, 1)),
    "RandomResizedCrop\nratio 1/3 to 3": transforms.RandomResizedCrop(side, ratio=(1 / 3, 3)),
    "Resize + CenterCrop\n(validation)": transforms.Compose(
        [transforms.Resize(round(side * 256 / 224)), transforms.CenterCrop(side)]
    ),
    "Resize to a square\n(nothing cut off)": transforms.Resize((side, side)),
    "RandomHorizontalFlip\np = 0.5": transforms.RandomHorizontalFlip(0.5),
    "RandomHorizontalFlip\np = 1": transforms.RandomHorizontalFlip(1.0),
}
torch.manual_seed(0)
fig, axes = plt.subplots(len(rows), 6, figsize=(6.8, 6.4), width_ratios=[1.6, 1, 1, 1, 1, 1])
for (name, transform), panels in zip(rows.items(), axes, strict=True):
    panels[0].text(0, 0.5, name, size=8, va="center")
    for panel in panels[1:]:
        panel.imshow(transform(photo))
for panel in axes.flat:
    panel.set_axis_off()
plt.tight_layout()
plt.show()
print(f"the photo has {photo.width}x{photo.height} pixels")

# %% [markdown]
# **살펴볼 점**: `scale`이 0.08이면 사진의 12분의 1만 남아 곤충의 일부만 보일 때도 있습니다.
# ImageNet처럼 이미지가 많을 때 알맞은 값입니다. 이미지가 적을 때를 위한 skipzoo의 기본값은
# 0.35입니다. `ratio`는 이미지를 찌그러뜨리고, 검증할 때 자르는 부분은 언제나 같습니다. `p =
# 0.5`이면 이미지마다 절반의 확률로 뒤집습니다.
#
# **What to see**: at `scale` 0.08, a crop may keep only a twelfth of the photo and a part of the
# insect. This value suits large datasets such as ImageNet. Our default, 0.35, suits few images.
# `ratio` distorts the image. The crop for validation is always the same. `p = 0.5` flips each image
# with probability 0.5.

# %% [markdown]
# ## 2. 모양과 범위 / Shape and range
#
# `ToTensor`는 모양(shape)을 (H, W, C)에서 (C, H, W)로, 값의 범위를 0~255에서 0~1로 바꿉니다.
# `Normalize`는 채널마다 평균을 빼고 표준편차로 나눕니다. 평균과 표준편차는 사전 학습 때 쓴 값과
# 같아야 합니다.
#
# `ToTensor` changes the shape from (H, W, C) to (C, H, W) and the range from 0..255 to 0..1.
# `Normalize` subtracts each channel's mean and divides by its standard deviation. Both must be
# those used in pretraining.

# %%
# 흔히 쓰는 코드 / the usual cell
import numpy as np

from experiments.classifier import pretrained

network, view = pretrained(MODEL, WEIGHTS, seed=0)  # `view`: the preprocessing of these weights
steps = {
    "PIL image": np.asarray,
    "Resize, CenterCrop": transforms.Compose(
        [transforms.Resize(view.resize), transforms.CenterCrop(view.crop)]
    ),
    "ToTensor": transforms.ToTensor(),
    "Normalize": transforms.Normalize(view.mean, view.std),
}
value = photo
for name, step in steps.items():
    value = step(value) if name != "PIL image" else value
    array = np.asarray(value)
    shape = f"{array.shape!s:>16} {array.dtype!s:>8}"
    print(f"{name:20} {shape}  {array.min():7.3f} to {array.max():7.3f}")

# %%
# skipzoo에서는 / here
from data.images import load_image
from data.view_batches import normalize_as

pixels = view(load_image(files[0]))  # decoded, resized, cropped
ours = normalize_as(view)(pixels[None])[0]
print("view(load_image(file))", tuple(pixels.shape), pixels.dtype)
print("normalised            ", tuple(ours.shape), ours.dtype)
print(f"largest difference from the usual cell: {(ours - value).abs().max():.3f}")
print(f"one grey level is {1 / 255 / min(view.std):.3f} after Normalize")

# %% [markdown]
# **달라진 점**: skipzoo에서는 픽셀을 마지막까지 `uint8`로 둡니다. 메모리는 4분의 1만 쓰고,
# 정규화는 배치 단위로 한꺼번에 합니다. 결과는 흔히 쓰는 코드와 위에 출력된 만큼만 다릅니다.
# 전처리인 `view`가 가중치와 함께 저장되므로 예측할 때 다시 적을 필요가 없습니다.
#
# **What changed**: here pixels stay `uint8`, a quarter of the memory, until a whole batch is
# normalised at once. The result differs from that of the usual cell by at most the number above.
# The preprocessing, `view`, is saved with the weights, so a prediction need not repeat it.

# %% [markdown]
# ## 3. 튜토리얼의 학습 루프 / The tutorial's training loop
#
# 에폭마다 두 단계(phase)가 있습니다. `train`에서는 가중치를 바꾸고, `val`에서는 측정만 합니다.
# 줄마다 이유가 있습니다. 번호를 단 줄이 왜 필요한지 아래 3.1부터 3.6까지 하나씩 측정해 봅니다.
#
# Every epoch has two phases. `train` changes the weights; `val` only measures. Sections 3.1 to 3.6
# measure why the numbered lines are needed.

# %%
# 흔히 쓰는 코드 / the usual cell
import copy

from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets

augment = transforms.Compose([
    transforms.RandomResizedCrop(view.crop),
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
    transforms.Normalize(view.mean, view.std),
])  # fmt: skip
plain = transforms.Compose(list(steps.values())[1:])
folders = {"train": datasets.ImageFolder(f"{DATA}/train", augment)}
folders["val"] = datasets.ImageFolder(f"{DATA}/val", plain)
loaders = {name: DataLoader(folder, 4, shuffle=name == "train") for name, folder in folders.items()}
right = []  # for each epoch, whether each val image is classified correctly


def train_model(model, criterion, optimizer, scheduler, epochs):
    best, best_accuracy = copy.deepcopy(model.state_dict()), 0.0  # (5)
    for epoch in range(1, epochs + 1):
        for phase in ("train", "val"):
            model.train(phase == "train")  # (2)
            loss_sum, correct = 0.0, []
            for images, labels in loaders[phase]:
                optimizer.zero_grad()  # (1)
                with torch.set_grad_enabled(phase == "train"):  # (3)
                    outputs = model(images)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                loss_sum += loss.item() * len(labels)  # (4)
                correct += (outputs.argmax(1) == labels).tolist()
            if phase == "train":
                scheduler.step()  # (6)
            size = len(folders[phase])
            accuracy = sum(correct) / size
            print(f"epoch {epoch} {phase}: loss {loss_sum / size:.3f} acc {accuracy:.1%}")
        right.append(correct)
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(model.state_dict()), accuracy  # (5)
    model.load_state_dict(best)
    return model


torch.manual_seed(0)
usual = copy.deepcopy(network)
usual.head = nn.Linear(usual.head.in_features, len(folders["train"].classes))
optimizer = torch.optim.SGD(usual.parameters(), lr=0.001, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
usual = train_model(usual, nn.CrossEntropyLoss(), optimizer, scheduler, EPOCHS)

# %% [markdown]
# ### 3.1 `zero_grad`는 왜 필요할까요? (1) / Why `zero_grad` (1)
#
# `backward()`는 기울기(gradient)를 덮어쓰지 않고 **더합니다**. `zero_grad()`를 빼면 지난 배치의
# 기울기가 모두 쌓입니다. 같은 배치로 `zero_grad()`가 있을 때와 없을 때 한 번씩 학습해 봅니다.
# 배치가 하나뿐이면, 쌓인 기울기만큼 크게 움직이므로 손실이 더 빨리 줄 수도 있습니다. 기울기의
# 크기(norm)를 보세요.
#
# `backward()` does not overwrite gradients; it **adds** to them. Without `zero_grad()`, the
# gradients of all past batches add up. We train on the same batch with and without `zero_grad()`.
# With one batch the loss may even fall faster, because the steps are larger. So look at the length
# of the gradient.

# %%
images, labels = next(iter(DataLoader(folders["val"], 16, shuffle=True)))


def gradient_norms(zeroed: bool) -> tuple[list[float], float]:
    """The length of the gradient at each of 20 steps on one batch, and the last loss."""
    model, norms = copy.deepcopy(usual).train(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    for _ in range(20):
        if zeroed:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        norms.append(sum(p.grad.square().sum() for p in model.parameters()).sqrt().item())
        optimizer.step()
    return norms, loss.item()


fig, axes = plt.subplots(figsize=(6, 2.4))
for zeroed in (True, False):
    norms, loss = gradient_norms(zeroed)
    name = "with zero_grad" if zeroed else "without zero_grad"
    axes.plot(range(1, 21), norms, label=name)
    print(f"{name}: gradient {norms[0]:.2f} at step 1, {norms[-1]:.2f} at step 20; loss {loss:.3f}")
axes.set(xlabel="step", ylabel="length of gradient")
axes.legend()
plt.show()

# %% [markdown]
# ### 3.2 `train()`과 `eval()`은 왜 필요할까요? (2) / Why `train()` and `eval()` (2)
#
# 배치 정규화(batch norm)는 `train()`에서는 그 배치의 평균을, `eval()`에서는 저장된 평균을 씁니다.
# `eval()`을 빠뜨리면 같은 이미지라도 **같은 배치에 있는 이미지에 따라** 답이 달라지고, 검증
# 데이터가 저장된 평균을 바꿉니다. 한 장씩 넣을 때가 가장 나쁩니다. 이미지가 153장이면 몇 %p의
# 차이는 우연일 수 있습니다.
# skipzoo의 학습 루프는 스텝마다 `train()`을, 평가할 때마다 `eval()`을 호출하므로 빠뜨릴 일이
# 없습니다.
#
# Batch norm uses the mean of the batch in `train()` mode, and the stored mean in `eval()` mode.
# Without `eval()`, the answer to an image depends on **the other images of its batch**, and
# validation data changes the stored means. A batch of one is the worst. With 153 images, a few
# points may be chance. Our loop calls `train()` at every step and `eval()` at every evaluation, so
# they cannot be forgotten.

# %%
val_images = torch.stack([image for image, _ in folders["val"]])
val_labels = torch.tensor(folders["val"].targets)


@torch.no_grad()
def accuracy(model: nn.Module, size: int) -> float:
    """Accuracy on val, in the model's present mode, in batches of `size`."""
    order = torch.randperm(len(val_images), generator=torch.Generator().manual_seed(0))
    parts = [(model(val_images[part]).argmax(1) == val_labels[part]) for part in order.split(size)]
    return torch.cat(parts).float().mean().item()


n = len(val_images)
print(f"eval(): {accuracy(usual.eval(), 4):.1%} of {n}, for every batch size")
for size in (32, 4, 1):
    forgotten = copy.deepcopy(usual).train()
    answer = (
        f"{accuracy(forgotten, size):.1%}; then with eval() {accuracy(forgotten.eval(), 4):.1%}"
    )
    print(f"forgotten eval(), batches of {size}: {answer} (the statistics have moved)")
print(f"one image is {100 / n:.1f} points; differences of a few images may be chance")

# %% [markdown]
# ### 3.3 `set_grad_enabled`는 왜 필요할까요? (3) / Why `set_grad_enabled` (3)
#
# 켜져 있으면 순전파(forward)의 중간 결과를 메모리에 남겨 둡니다. 검증에서는 `backward()`를 하지
# 않으므로 중간 결과가 필요 없습니다.
#
# When gradients are enabled, the forward pass keeps its intermediate results in memory. Validation
# does not need them, since it calls no `backward()`.


# %%
def kept_bytes(enabled: bool) -> int:
    """The bytes that a forward pass of one batch keeps for backward()."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.set_grad_enabled(enabled), torch.autograd.graph.saved_tensors_hooks(keep, keep):
        output = usual(images)
    print(f"set_grad_enabled({enabled}): the output needs a gradient: {output.requires_grad}")
    return sum(kept.values())


with_gradients, without = kept_bytes(True), kept_bytes(False)
print(f"kept for {len(images)} images: {with_gradients / 1e6:.1f} MB, or {without / 1e6:.1f} MB")

# %% [markdown]
# ### 3.4 손실 × 배치 크기 ÷ 데이터 크기 (4) / Loss times batch size over dataset size (4)
#
# `loss`는 한 배치의 **평균**입니다. 마지막 배치가 더 작으면, 배치 평균들의 평균은 전체 이미지의
# 평균과 다릅니다.
#
# `loss` is the **mean** over a batch. If the last batch is smaller, the mean of the batch means is
# not the mean over all images.

# %%
with torch.no_grad():
    logits = usual.eval()(val_images)
losses = nn.functional.cross_entropy(logits, val_labels, reduction="none")
for size in (4, 32, n - 1):
    batches = losses.split(size)
    weighted = sum(batch.mean() * len(batch) for batch in batches) / n
    unweighted = sum(batch.mean() for batch in batches) / len(batches)
    print(f"batches of {size}, the last of {len(batches[-1])}: ", end="")
    print(f"weighted {weighted:.4f}, unweighted {unweighted:.4f}; all images {losses.mean():.4f}")

# %% [markdown]
# ### 3.5 가장 좋은 모델 (5) / The best model (5)
#
# 튜토리얼은 검증 정확도가 가장 높은 에폭을 고르고, **바로 그 정확도**를 보고합니다. 여러 에폭
# 가운데 최댓값이므로 실제보다 조금 높습니다. 얼마나 높은지 측정해 봅니다. 검증 이미지를 반으로
# 나눠 한쪽에서 에폭을 고르고 다른 쪽에서 정확도를 잽니다(1,000번 반복).
#
# The tutorial picks the epoch with the highest validation accuracy and reports **that same
# accuracy**. It is the maximum of several accuracies, so it is a little too high. To measure by how
# much, we split the validation images in half 1,000 times. Each time, we choose the epoch on one
# half and measure its accuracy on the other.

# %%
table = torch.tensor(right).float()  # (epochs, n)
generator, gaps = torch.Generator().manual_seed(0), []
for _ in range(1000):
    one, other = torch.randperm(n, generator=generator).tensor_split(2)
    chosen = table[:, one].mean(1).argmax()
    gaps.append((table[chosen, one].mean() - table[chosen, other].mean()).item())
gap, wider = 100 * np.mean(gaps), f"{len(one)} of {n} images, {EPOCHS} epochs, one seed"
print(f"accuracy by epoch: {', '.join(f'{a:.1%}' for a in table.mean(1).tolist())}")
print(f"chosen and reported on the same images: {gap:.1f} points too high ({wider})")

# %% [markdown]
# ### 3.6 스케줄러 (6) / The scheduler (6)
#
# `StepLR(step_size=7)`은 `step()`을 7번 호출할 때마다 학습률을 10분의 1로 줄입니다. 튜토리얼은
# `step()`을 **에폭마다** 한 번 호출합니다. 배치마다 호출하면 첫 에폭이 끝나기도 전에 학습이 사실상
# 멈춥니다.
#
# `StepLR(step_size=7)` divides the learning rate by 10 after every 7 calls of `step()`. The
# tutorial calls `step()` once per **epoch**. If it is called per batch, learning practically
# stops before the first epoch ends.


# %%
def rates(calls_per_epoch: int, epochs: int = 25) -> list[float]:
    """The rate at the start of every epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.001)
    scheduler, found = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for _ in range(calls_per_epoch):
            scheduler.step()
    return found


fig, axes = plt.subplots(figsize=(6, 2.4))
axes.semilogy(rates(1), drawstyle="steps-post", label="step() per epoch")
axes.semilogy(rates(len(loaders["train"])), drawstyle="steps-post", label="step() per batch")
axes.set(xlabel="epoch", ylabel="learning rate", ylim=(1e-12, 1e-2))
axes.legend()
plt.show()
print(f"after one epoch, per batch: {rates(len(loaders['train']))[1]:.0e}")

# %% [markdown]
# ## 4. skipzoo에서는 한 번의 호출로 / Here: one call
#
# `recipe="tutorial"`은 튜토리얼의 설정입니다: SGD, 학습률 0.001, 배치 크기 4, 7에폭마다 학습률을
# 10분의 1로. 미세 조정, 특징 추출, `moving-bn`의 세 가지를 비교합니다. `moving-bn`은 튜토리얼에
# 나오는 특징 추출입니다. 가중치는 동결(freeze)하지만 `train()`이 배치 정규화 통계를 계속 바꿉니다.
#
# `recipe="tutorial"` has the tutorial's settings: SGD, batches of 4, and a learning rate of 0.001
# that is divided by 10 every 7 epochs. We compare fine-tuning, feature extraction, and `moving-bn`.
# The last one is the tutorial's feature extraction: the weights are frozen, but `train()` lets
# batch norm change its statistics.

# %%
# skipzoo에서는 / here
from experiments.transfer.comparison import transfer

results = transfer(
    DATA,
    recipe="tutorial",
    model=MODEL,
    weights=WEIGHTS,
    strategy=["finetune", "feature-extraction", "moving-bn"],
    epochs=EPOCHS,
    seeds=1,
    output_dir=RUNS,
)
results

# %%
from experiments.transfer.report import arms, lead

by_strategy = {arm.strategy: arm for arm in arms(results.rows)}
ours, moving = by_strategy["feature-extraction"], by_strategy["moving-bn"]
print(f"feature-extraction minus moving-bn: {100 * lead(ours, moving).mean:.1f} points")
print(f"n = 1 seed, {n} val images; batches of 4")
usual_best = table.mean(1).max().item()
here_best = by_strategy["finetune"].rows[0]["accuracy"]
print(f"fine-tuning: the usual loop {usual_best:.1%}, ours {here_best:.1%}, both chosen on val")

# %% [markdown]
# **달라진 점**: 미세 조정의 설정은 위의 루프와 같습니다. 이미지 순서와 난수가 다르고, 정밀도도 다를
# 수 있습니다(위의 `Precision` 줄). 그래서 두 정확도의 차이는 우연일 수 있습니다. `moving-bn`의
# 비용은 위에 나와 있지만 시드가 하나뿐이라 이것만으로는 알 수 없습니다. 노트북 2에 시드 5개의
# 결과가 있습니다. 검증 세트로 에폭을 골랐으므로 이 정확도들도 조금 부풀려진 값이고, 표 아래 문장이
# 그렇게 알려 줍니다. 3.5의 값은 다른 학습에서 측정한 것입니다.
#
# **What changed**: fine-tuning has the same settings as the loop above. The order of images and the
# random numbers differ, and perhaps the precision (the line `Precision` above). So the difference
# of the two accuracies may be chance. The cost of `moving-bn` is printed above, but one seed cannot
# tell; notebook 2 has the results of 5 seeds. Val chose the epochs, so these accuracies are a
# little too high, too, and the text under the table says so. (3.5 measured this on another
# training.)

# %% [markdown]
# ## 5. 예측 예시 / Sample predictions
#
# 튜토리얼의 `visualize_model`은 정규화를 되돌려 이미지를 그리고, 제목에 예측한 답을 적습니다.
#
# The tutorial's `visualize_model` undoes the normalisation, draws the image, and shows the
# predicted class in the title.

# %%
# 흔히 쓰는 코드 / the usual cell
classes = folders["val"].classes
shown = torch.randperm(n, generator=torch.Generator().manual_seed(1))[:6]
with torch.no_grad():
    answers = usual.eval()(val_images[shown]).argmax(1)
mean, std = (torch.tensor(v).view(3, 1, 1) for v in (view.mean, view.std))
fig, axes = plt.subplots(1, len(shown), figsize=(8, 1.7))
for panel, i, answer in zip(axes, shown, answers, strict=True):
    panel.imshow((val_images[i] * std + mean).clamp(0, 1).permute(1, 2, 0))
    panel.set_title(f"predicted: {classes[answer]}\ntrue: {classes[val_labels[i]]}", size=8)
    panel.set_axis_off()
plt.show()

# %%
# skipzoo에서는 / here
from experiments.classifier import load_model, predict

model = load_model(results.best)
predict(model, folders["val"].samples[shown[0]][0])

# %% [markdown]
# **달라진 점**: 흔히 쓰는 코드는 네트워크에 들어간 작은 이미지를 확률 없이 보여 줍니다.
# skipzoo에서는 원래 사진에 확률을 함께 보여 주고, 클래스 이름과 전처리를 파일에서 읽습니다.
#
# **What changed**: the usual cell shows the small image that the network gets, without a
# probability. Here the original photo is shown with probabilities. Class names and preprocessing
# come from the file.

# %% [markdown]
# **ImageNet 가중치로 (여기서는 실행하지 않음 / not run here)**: `IMAGENET = True`로 바꾸면 이 셀이
# 튜토리얼의 설정으로 ResNet-18을 25에폭 동안 시드 3개로 학습합니다. GPU가 있으면 좋습니다.
#
# **With ImageNet weights**: set `IMAGENET = True`, and this cell trains ResNet-18 with the
# tutorial's settings: 25 epochs, here with 3 seeds. A GPU helps.

# %% tags=["not-run"]
if IMAGENET:
    pair = ["finetune", "feature-extraction"]
    display(transfer(DATA, recipe="tutorial", strategy=pair, model="resnet18"))  # noqa: F821
