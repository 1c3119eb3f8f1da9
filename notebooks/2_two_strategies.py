# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 두 가지 전략: 미세 조정과 특징 추출 / Two strategies: fine-tuning and feature extraction
#
# 사전 학습된 네트워크를 내 이미지에 맞게 옮겨 쓰는 두 방법을 정확도와 시간으로 비교합니다. 시간이
# 어디에 쓰이는지, 두 가지 함정(계속 바뀌는 배치 정규화 통계와 RGBA 이미지)의 비용이 얼마인지도
# 측정합니다. 모든 셀을 실행하는 데 CPU 코어 2개로 약 1분 걸렸습니다. "여기서는 실행하지
# 않음"이라고 적힌 셀은 아무 일도 하지 않습니다.
#
# We compare two ways to adapt a pretrained network to our own images, by accuracy and time. We
# measure how the time is spent, and the cost of two mistakes: batch norm statistics that change in
# a frozen network, and RGBA images. All cells took about a minute on 2 CPU cores. Cells marked
# "not run here" are skipped.

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
# 내 이미지를 쓰려면 `DATA`를 바꾸세요. `train/`과 `val/`이 있고, 그 안에 클래스마다 폴더가 하나씩
# 있는 폴더입니다. 여기서는 ImageNet 가중치를 내려받을 수 없어서 CIFAR-10으로 학습한 ResNet-32를
# 씁니다. 보통은 `MODEL = "resnet18"`로 설정합니다.
#
# To use your own images, set `DATA` to a folder with `train/` and `val/`, and one folder per class
# in each. ImageNet weights cannot be downloaded here, so we use a ResNet-32 trained on CIFAR-10.
# The usual setting is `MODEL = "resnet18"`.

# %% tags=["parameters"]
DATA = "cache/hymenoptera_data"
MODEL = "resnet32"
WEIGHTS = "DEFAULT"
SIZE = 64  # pixels; larger is better and slower, and None is what the weights expect
EPOCHS = 5
SEEDS = 3
RUNS = "runs/two_strategies"
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
# ## 1. 무엇을 학습하나요? / What is trained
#
# **미세 조정**(fine-tuning)은 모든 가중치를 학습합니다. **특징 추출**(feature extraction)은 새로
# 단 마지막 층, 곧 헤드(head)만 학습하고 나머지는 동결(freeze)합니다. 아래는 흔히 쓰는 코드입니다.
# torchvision에서는 헤드를 `fc`라고 부릅니다.
#
# **Fine-tuning** trains all weights. **Feature extraction** trains a new last layer, the head,
# and freezes the rest. Below is the usual cell. torchvision calls the head `fc`.

# %%
# 흔히 쓰는 코드 / the usual cell
import copy

import numpy as np
import torch
from torch import nn

from experiments.classifier import pretrained

network, view = pretrained(MODEL, WEIGHTS, seed=0)  # usually: models.resnet18(weights="DEFAULT")
side = SIZE or view.crop

frozen = copy.deepcopy(network)
for parameter in frozen.parameters():
    parameter.requires_grad = False
frozen.head = nn.Linear(frozen.head.in_features, 2)  # new layers are trained


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


print(f"fine-tuning: {trainable(network):,} parameters; feature extraction: {trainable(frozen):,}")

# %% [markdown]
# ### 함정: 동결했는데도 움직입니다 / The trap: a frozen network that changes
#
# `requires_grad = False`는 기울기(gradient)만 끕니다. 학습 루프의 `model.train()` 때문에 배치
# 정규화(batch norm)의 이동 평균과 이동 분산(running statistics)은 계속 바뀝니다. 아래에서는
# 옵티마이저 없이 이미지를 통과시키기만 합니다. 그래도 특징이 달라집니다.
#
# `requires_grad = False` only stops gradients. In the training loop, `model.train()` still lets
# batch norm change its running statistics. Below, images only pass through the network, without any
# optimiser. The features change nevertheless.

# %%
# 흔히 쓰는 코드 / the usual cell
from data.images import load_image
from data.view_batches import normalize_as

files = sorted(Path(DATA).glob("train/*/*"))[:32]
images = normalize_as(view)(torch.stack([view(load_image(file)) for file in files]))


def features_after_passes(module: nn.Module, model: nn.Module) -> torch.Tensor:
    """Features of the images, after ten passes in the mode of training and no step at all."""
    for _ in range(10):
        module.train()
        module(images)
    with torch.no_grad():
        return model.eval().features(images)


with torch.no_grad():
    before = network.eval().features(images)
change = features_after_passes(frozen, frozen) - before
print(f"the usual freezing: features change by {change.norm() / before.norm():.1%}")

# %%
# skipzoo에서는 / here
from experiments.transfer.strategies import to_train

ours = copy.deepcopy(network)
ours.head = nn.Linear(ours.head.in_features, 2)
module = to_train("feature-extraction", ours)  # freezes, and keeps batch norms in eval mode
change = features_after_passes(module, ours) - before
print(f"our freezing: features change by {change.norm() / before.norm():.1%}")
print(f"trainable: {trainable(module):,}; the class Frozen in experiments/transfer/strategies.py")

# %% [markdown]
# **달라진 점**: 흔히 쓰는 코드에서는 "동결된" 네트워크의 특징이 바뀌었지만, skipzoo에서는 0 %
# 바뀌었습니다. 흔히 쓰는 코드의 헤드는 계속 바뀌는 특징으로 학습하게 됩니다. 그 때문에 정확도가
# 얼마나 낮아지는지는 바로 아래에서 측정합니다. 이 실수의 이름은 `moving-bn`입니다.
#
# **What changed**: the features of the usual "frozen" network changed; ours changed by 0 %. The
# usual head learns from features that keep changing. The next section measures the cost in
# accuracy. This mistake is called `moving-bn`.

# %% [markdown]
# ## 2. 비교 / The comparison
#
# 흔히 보는 노트북은 전략마다 학습 셀을 복사해 한 번씩만 실행합니다. 여기서는 한 번의 호출로 같은
# 이미지를 같은 순서로 써서 여러 시드를 실행합니다. 에폭마다 한 줄이 출력되고, 중단되더라도 같은
# 셀을 다시 실행하면 이어집니다. `linear-probe`(선형 프로브)는 특징을 한 번만 계산하고 로지스틱
# 회귀로 헤드를 학습합니다.
#
# Usual notebooks copy the training cell for each strategy and run each copy once. Here one call
# runs several seeds on the same images in the same order. It prints a line per epoch. After an
# interruption, the same cell resumes. `linear-probe` computes the features once and fits the head
# by logistic regression.

# %%
# skipzoo에서는 / here
from experiments.transfer.comparison import transfer

results = transfer(
    DATA,
    model=MODEL,
    weights=WEIGHTS,
    strategy=["finetune", "feature-extraction", "linear-probe", "moving-bn"],
    size=SIZE,
    epochs=EPOCHS,
    seeds=SEEDS,
    output_dir=RUNS,
)
results

# %% [markdown]
# 표에는 평균과 95 % 신뢰구간이 있습니다. 추천 문장은 신뢰구간을 보고 정하며, 어느 쪽이 나은지 알
# 수 없으면 알 수 없다고 말합니다. 아래는 배치 정규화 통계가 계속 바뀔 때의 비용입니다. 같은 시드,
# 같은 이미지끼리 뺀 차이입니다.
#
# The table shows means and 95 % intervals. The recommendation depends on the intervals, and says
# when they cannot tell. Below is the cost of `moving-bn`: differences between runs with the same
# seed and the same images.

# %%
from experiments.plumbing.stats import estimate
from experiments.transfer.report import arms, lead, points

by_strategy = {arm.strategy: arm for arm in arms(results.rows)}
ours = by_strategy["feature-extraction"]
for other in ("moving-bn", "finetune", "linear-probe"):
    print(f"feature-extraction minus {other}: {points(lead(ours, by_strategy[other]))}")

split = results.rows[0]["tested_on"]
last = [[row[f"last_{split}_accuracy"] for row in by_strategy[name].rows] for name in by_strategy]
last = dict(zip(by_strategy, np.array(last), strict=True))
cost = estimate((last["feature-extraction"] - last["moving-bn"]).tolist())
print(
    f"the same with moving-bn, after the last epoch: {cost.show(1, 100)} points, n = {cost.n} seeds"
)
print(f"{results.rows[0]['images'][split]} images of {split}")

# %% [markdown]
# 짧은 실행으로는 어느 쪽이 나은지 알 수 없을 때가 많습니다. 같은 사진을 찌그러뜨려 96x96으로
# 줄이고 더 길게(20에폭, 시드 5개) 실행한 결과가 저장소에 있습니다.
#
# A short run often cannot tell which is better. The repository has the results of a longer run on
# the same photos, squashed to 96x96: 20 epochs, 5 seeds.

# %%
import csv

with Path("docs/transfer/results.csv").open(encoding="utf-8", newline="") as file:
    published = {(row["strategy"], int(row["seed"])): row for row in csv.DictReader(file)}
seeds = sorted({seed for _, seed in published})
for column in ("best_val_accuracy", "last_val_accuracy"):
    one, other = (
        [float(published[name, seed][column]) for seed in seeds]
        for name in ("feature-extraction", "moving-bn")
    )
    cost = estimate((np.array(one) - np.array(other)).tolist())
    print(f"{column}: {estimate(one).show(1, 100)} % with fixed batch norms, ", end="")
    print(f"{estimate(other).show(1, 100)} % with moving ones")
    print(f"  moving batch norms cost {cost.show(1, 100)} points, n = {cost.n} seeds")

# %% [markdown]
# **달라진 점**: 동결된 네트워크의 배치 정규화 통계를 고정한 것뿐입니다. 마지막 에폭에서 8.5 ± 1.6
# %p, 검증 세트로 고른 에폭에서 7.5 ± 0.4 %p 차이가 납니다(시드 5개, 이미지 153장). 이렇게 적은
# 이미지로는 미세 조정과 특징 추출 중 어느 쪽이 나은지 대개 알 수 없습니다.
#
# **What changed**: only the batch norm statistics of the frozen network, which stay fixed. After
# the last epoch, the difference is 8.5 ± 1.6 points, and 7.5 ± 0.4 in the epoch that val chooses
# (5 seeds, 153 images). So few images can rarely tell whether fine-tuning or feature extraction is
# better.

# %% [markdown]
# ## 3. 시간은 어디에 쓰이나요? / Where the time goes
#
# 흔히 보는 노트북의 `ImageFolder`는 에폭마다 모든 JPEG를 다시 디코딩합니다. 큰 사진을 작은
# 네트워크에 넣을 때는 계산보다 이미지를 읽는 시간이 더 길 수 있습니다. 한 에폭을 읽는 시간을 재
# 봅니다.
#
# `ImageFolder` in usual notebooks decodes every JPEG again in every epoch. With large photos and
# a small network, loading can take longer than computing. We time the loading of one epoch.

# %%
# 흔히 쓰는 코드 / the usual cell
import time

from torchvision import datasets, transforms

augment = transforms.Compose([
    transforms.RandomResizedCrop(side),
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
    transforms.Normalize(view.mean, view.std),
])  # fmt: skip
usual = datasets.ImageFolder(f"{DATA}/train", augment)
begin = time.perf_counter()
for _ in usual:
    pass
usual_seconds = time.perf_counter() - begin
print(f"the usual loading: {usual_seconds:.2f} s per epoch of {len(usual)} images")

# %%
# skipzoo에서는 / here
import matplotlib.pyplot as plt

from experiments.plumbing.tables import Rows

rows = [row for row in results.rows if row["run"]["seed"] == 0]
parts = []  # of each run, seconds: loading, computing, everything else
for row in rows:
    loading, training = row["waiting_seconds"], row["training_seconds"]
    parts.append((loading, training - loading, row["seconds"] - training))
names = [row["run"]["strategy"] for row in rows]

fig, axes = plt.subplots(figsize=(7, 2.2))
left = np.zeros(len(rows))
for label, seconds in zip(("loading", "computing", "the rest"), np.array(parts).T, strict=True):
    axes.barh(names, seconds, left=left, label=label)
    left += seconds
axes.set(xlabel="seconds (seed 0)")
axes.invert_yaxis()
axes.legend()
plt.show()

lines = [[name, *(f"{s:.2f}" for s in seconds)] for name, seconds in zip(names, parts, strict=True)]
header = ("strategy", "loading s", "computing s", "the rest s (evaluation, saving)")
per_epoch = next(p[0] for n, p in zip(names, parts, strict=True) if n == "finetune") / EPOCHS
print(f"our loading: {per_epoch:.2f} s per epoch; the usual one: {usual_seconds:.2f} s")
Rows(header, lines)

# %% [markdown]
# **달라진 점**: skipzoo에서는 사진을 한 번만 디코딩해 작게 저장하고(`cache/images`), 에폭마다
# 저장된 픽셀을 잘라 씁니다. 그래서 읽기 시간이 위에 출력된 만큼으로 줄었습니다. 처음 한 번은 흔히
# 쓰는 코드처럼 모든 사진을 디코딩합니다. 특징 추출은 역전파(backward)가 헤드만 지나가므로 빠르고,
# `linear-probe`는 특징을 한 번만 계산합니다. 여기서는 어느 쪽이든 계산이 읽기보다 오래 걸리지만,
# GPU에서는 읽기 시간이 더 길어지기 쉽습니다.
#
# **What changed**: here every photo is decoded once, made smaller and stored (`cache/images`). Each
# epoch crops the stored pixels, so loading takes the time printed above. The first time, every
# photo is decoded as in the usual cell. Feature extraction is faster than fine-tuning, since
# backward only passes the head. `linear-probe` is faster still, since it computes the features
# once. Here computing takes longer than loading for each of them; on a GPU, loading easily takes
# longer.

# %% [markdown]
# ## 4. RGBA 함정 / The RGBA trap
#
# 투명한 PNG에는 채널이 네 개 있습니다. 그래서 오류가 나면 흔히 보는 노트북은 `.convert("RGB")`를
# 붙입니다. 그러면 투명도가 사라지고 숨어 있던 색(대개 검은색)이 드러납니다. 16비트 회색조 이미지는
# 값이 잘려(clip) 대부분 흰색이 됩니다.
#
# A transparent PNG has four channels. If this raises an error, usual notebooks add
# `.convert("RGB")`. That call drops the transparency and shows the hidden colours, often black. It
# also clips 16-bit grey, mostly to white.

# %%
# 흔히 쓰는 코드와 skipzoo / the usual cell, and here
import io

from PIL import Image

from data.images import as_image

photo = Image.open(sorted(Path(DATA).glob("val/*/*"))[0]).convert("RGB").resize((120, 90))
row, column = np.mgrid[-1:1:90j, -1:1:120j]
inside = Image.fromarray(np.uint8(255 * (row**2 + column**2 < 0.8)))


def cut_out(image: Image.Image) -> Image.Image:
    """RGBA as an editor leaves it: outside an ellipse transparent, over hidden black."""
    cut = Image.new("RGBA", image.size, (0, 0, 0, 0))
    cut.paste(image, mask=inside.resize(image.size))
    return cut


def as_file(image: Image.Image) -> Image.Image:
    """Written to a file, and opened again."""
    file = io.BytesIO()
    image.save(file, "JPEG" if image.mode == "CMYK" else "PNG")
    return Image.open(file)


deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)  # 16-bit grey
kinds = [photo, cut_out(photo), cut_out(photo).quantize(64), photo.convert("CMYK"), deep]
kinds = [as_file(image) for image in kinds]
lines = []
for image in kinds:
    raw, shown = transforms.functional.pil_to_tensor(image), as_image(image)
    usual = transforms.functional.pil_to_tensor(image.convert("RGB"))
    wrong = (usual.int() - shown.int()).abs().amax(0).gt(8).float().mean()
    lines.append([image.mode, str(raw.shape[0]), str(tuple(shown.shape)), f"{wrong:.0%}"])
header = ("mode of the file", "channels", "here", 'pixels that convert("RGB") changes')
Rows(header, lines)

# %%
fig, axes = plt.subplots(2, len(kinds), figsize=(8, 2.8))
for image, above, below in zip(kinds, *axes, strict=True):
    above.imshow(image.convert("RGB"))
    below.imshow(as_image(image).permute(1, 2, 0))
    above.set_title(f'{image.mode}: convert("RGB")', size=7)
    below.set_title(f"{image.mode}: here", size=7)
for panel in axes.flat:
    panel.set_axis_off()
plt.tight_layout()
plt.show()

# %% [markdown]
# 모든 검증 이미지를 이렇게 오려 낸 다음, 같은 분류기가 두 가지 방법으로 읽은 이미지에 각각 어떻게
# 답하는지 셉니다.
#
# We cut out all validation images like this, read them in both ways, and count the right answers of
# the same classifier.

# %%
from experiments.classifier import load_model, predict

model = load_model(results.best)
right = {"the photo": 0, "cut out, on white (here)": 0, 'cut out, convert("RGB")': 0}
files, differ = sorted(Path(DATA).glob("val/*/*")), 0
for file in files:
    photo = Image.open(file).convert("RGB")
    cut = cut_out(photo)
    answers = [predict(model, image, k=1)[0]["label"] for image in (photo, cut, cut.convert("RGB"))]
    differ += answers[1] != answers[2]
    for name, answer in zip(right, answers, strict=True):
        right[name] += answer == file.parent.name
for name, count in right.items():
    print(f"{name}: {count} of {len(files)} right ({count / len(files):.1%})")
print(f"the two readings of one file get different answers: {differ} of {len(files)}")

# %% [markdown]
# **달라진 점**: skipzoo에서는 투명한 픽셀을 흰색 배경에 올리고, 16비트 회색조를 8비트 범위로
# 변환합니다. 사람 눈에 보이는 그대로입니다. 위의 출력은 읽는 방법에 따라 답이 달라진 파일의
# 수입니다. 여기서는 검은 배경일 때 몇 장을 더 맞혔지만, 이미지 153장과 네트워크 하나로는 어느 쪽이
# 나은지 알 수 없습니다. 문제는 숨어 있던 색이 오류도 없이 답을 바꾼다는 것입니다. 네트워크는 오려
# 낸 이미지를 학습한 적이 없으므로 두 방법 모두 원래 사진보다 정확도가 낮습니다. 학습할 때와 예측할
# 때 이미지를 같은 방법으로 읽어야 합니다.
#
# **What changed**: here transparent pixels become white, and 16-bit grey is scaled to 8 bits, so
# the network gets what people see. The output above counts the files whose answer depends on how
# they are read. With the black background, a few more answers were right here, but 153 images and
# one network cannot tell which is better. The problem is that hidden colours change answers without
# an error. The network was not trained on cut-outs, so both ways are worse than the original photo.
# Training and prediction must read images in the same way.

# %% [markdown]
# ## 5. 붙여 넣을 표 / A table to paste
#
# 흔히 보는 노트북에서는 숫자를 손으로 옮겨 적습니다. 여기서는 보고서를 마크다운으로 출력합니다.
# 이미지 수, 시드 수, 신뢰구간도 함께 나옵니다.
#
# In usual notebooks, numbers are copied by hand. Here the report is printed as Markdown, with the
# numbers of images and seeds and the intervals.

# %%
from experiments.plumbing.tables import markdown

print(markdown(results.parts))

# %% [markdown]
# ## 6. 결과 사용하기 / Use the result
#
# `results.best`는 추천된 전략에서 검증 정확도가 가장 높은 파일입니다. 클래스 이름과 전처리도 이
# 파일에 들어 있습니다.
#
# `results.best` is the checkpoint of the recommended strategy with the highest validation accuracy.
# It contains class names and preprocessing.

# %%
model

# %%
predict(model, files[-1])

# %% [markdown]
# **ImageNet 가중치로 (여기서는 실행하지 않음 / not run here)**: `IMAGENET = True`로 바꾸면 이 셀이
# torchvision의 ResNet-18로 같은 비교를 합니다. GPU가 있으면 좋습니다.
#
# **With ImageNet weights**: set `IMAGENET = True`, and this cell makes the same comparison with
# torchvision's ResNet-18. A GPU helps.

# %% tags=["not-run"]
if IMAGENET:
    pair = ["finetune", "feature-extraction"]
    display(transfer(DATA, recipe="two-strategies", strategy=pair, model="resnet18"))  # noqa: F821

# %% [markdown]
# ## 다음 단계 / Next
#
# 이 프로젝트 없이도 쓸 수 있게 실행(run) 하나를 내보낼(eject) 수 있습니다. 터미널에서 다음 명령을
# 실행하면 skipzoo 없이 PyTorch와 torchvision으로 실행되는 노트북(또는 `script`)이 만들어집니다:
# `python -m experiments.eject RUN --as notebook`. `RUN`은 `runs/two_strategies` 안의 폴더입니다.
# torchvision에 있는 ResNet만 내보낼 수 있으므로, 이 ResNet-32의 실행은 거절됩니다. 개미와 벌
# 튜토리얼은 `3_ants_and_bees.ipynb`에 있습니다.
#
# To use a run without this project, run this command in a terminal: `python -m experiments.eject
# RUN --as notebook`. It writes a notebook (or a `script`) of PyTorch and torchvision, without
# skipzoo. `RUN` is a folder in `runs/two_strategies`. The network has to be one of torchvision's
# ResNets, so runs of this ResNet-32 are refused. The tutorial on ants and bees is in
# `3_ants_and_bees.ipynb`.
