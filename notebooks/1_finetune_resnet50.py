# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 내 폴더로 ResNet-50 미세 조정 / Fine-tune ResNet-50 on my folder
#
# 데이터를 보고, head를 바꾸고, 학습하고, 가장 좋은 에폭을 저장해 CPU에서 다시 불러옵니다. 이미지
# 하나에 제목과 상위 5개를 붙이고, torchvision이 읽는 `.pth`를 만듭니다. 학습을 `kill -9`로
# 죽였다가 이어서 합니다. 모든 셀은 CPU 코어 2개에서 약 1분 걸렸습니다. "여기서는 실행하지 않음"
# 셀은 건너뜁니다.
#
# We look at the data, replace the head, train, keep the best epoch and reload it on a CPU. We show
# one image with a title and its top 5 classes, and save a `.pth` that torchvision reads. We kill
# the training with `kill -9` and resume it. All cells took about a minute on 2 CPU cores. Cells
# marked "not run here" are skipped.

# %%
import os
import sys
from pathlib import Path

if not Path("zoo").is_dir():  # the kernel started in notebooks/
    os.chdir("..")
sys.path.insert(0, str(Path.cwd()))

# %% [markdown]
# **Colab (여기서는 실행하지 않음 / not run here)**: 저장소를 복제하고 설치합니다. 커널에 있는
# torch는 그대로 둡니다. `URL`에는 저장소의 주소를 넣습니다.
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
# 내 이미지를 쓰려면 `DATA`를 바꿉니다. 클래스마다 폴더가 하나씩 있으면 됩니다:
# `my_images/cat/1.jpg`. 여기서는 ImageNet 가중치를 받을 수 없어서, CIFAR-10으로 학습한
# ResNet-32를 씁니다. 원래는 `MODEL = "resnet50"`, `WEIGHTS = "DEFAULT"`입니다.
#
# To use your own images, set `DATA` to a folder with one folder per class, such as
# `my_images/cat/1.jpg`. ImageNet weights cannot be downloaded here, so we use a ResNet-32 trained
# on CIFAR-10. The usual settings are `MODEL = "resnet50"` and `WEIGHTS = "DEFAULT"`.

# %% tags=["parameters"]
DATA = "cache/hymenoptera_data"
MODEL = "resnet32"
WEIGHTS = "cache/resnet32-d509ac18.th"
EPOCHS = 8
RUNS = "runs/drive"
IMAGENET = False  # True: also run the cells that download ImageNet weights

# %% [markdown]
# **Drive 연결 (여기서는 실행하지 않음 / not run here)**: Colab은 연결이 끊기면 파일을 지웁니다.
# 결과를 Drive에 두면 같은 셀을 다시 실행해 이어서 학습할 수 있습니다. Colab 밖에서는
# `runs/drive`가 그 역할을 합니다.
#
# **Mount Drive**: Colab deletes its files when it disconnects. If the results are on Drive, run the
# same cell again to resume the training. Outside Colab, `runs/drive` replaces Drive.

# %% tags=["not-run"]
if "google.colab" in sys.modules:
    from google.colab import drive

    drive.mount("/content/drive")
    RUNS = "/content/drive/MyDrive/skipzoo-runs"

# %% [markdown]
# 개미와 벌 사진(PyTorch 튜토리얼의 데이터)과 가중치를 한 번만 내려받습니다. 학습 폴더의
# `imageNotFound.gif`는 사진이 아니므로 지웁니다.
#
# This cell downloads the weights and the photos of PyTorch's tutorial (ants and bees), once.
# `imageNotFound.gif` in the training folder is not a photo, so we delete it.

# %%
import zipfile

from torch.hub import download_url_to_file

Path("cache").mkdir(exist_ok=True)
if not Path(DATA).exists():
    url = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
    download_url_to_file(url, "cache/hymenoptera_data.zip", progress=False)
    zipfile.ZipFile("cache/hymenoptera_data.zip").extractall("cache")
if not Path(WEIGHTS).exists():
    url = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
    download_url_to_file(url + Path(WEIGHTS).name, WEIGHTS, progress=False)
(Path(DATA) / "train/ants/imageNotFound.gif").unlink(missing_ok=True)
for folder in sorted(Path(DATA).glob("*/*")):
    print(f"{folder.parent.name}/{folder.name}: {len(list(folder.iterdir()))} images")

# %% [markdown]
# ## 1. 데이터 보기 / Look at the data
#
# 흔한 셀은 `ImageFolder`로 클래스와 그림 몇 장을 봅니다. 깨진 파일이나 겹치는 사진은 보이지
# 않습니다.
#
# The usual cell lists the classes and shows a few images with `ImageFolder`. It does not find
# broken files or duplicates.

# %%
# 흔한 셀 / the usual cell
import matplotlib.pyplot as plt
import torch
from torchvision import datasets

photos = datasets.ImageFolder(f"{DATA}/train")
print(len(photos), "images,", photos.classes)
fig, axes = plt.subplots(1, 5, figsize=(7, 1.6))
for panel, i in zip(axes, torch.linspace(0, len(photos) - 1, 5).int().tolist(), strict=True):
    photo, label = photos[i]
    photo.thumbnail((150, 150))
    panel.imshow(photo)
    panel.set_title(photos.classes[label], size=8)
    panel.set_axis_off()
plt.show()

# %%
# 여기서는 / here
from experiments import check_data

check_data.main(check_data.Options(Path(DATA), workers=0))

# %% [markdown]
# **무엇이 바뀌었나**: 모든 파일을 실제로 디코딩하고, 학습과 검증에 같은 사진이 있는지 봅니다.
# 깨진 파일은 이름을 말하고 멈춥니다. 학습 도중 몇 번째 에폭에서 멈추는 일은 없습니다.
#
# **What changed**: the check decodes every file and finds photos that are in both train and val. A
# broken file stops the check, which names the file. So it cannot stop the training in a later
# epoch.

# %% [markdown]
# ## 2. head 바꾸기 / Replace the head
#
# 사전 학습된 신경망의 마지막 층은 그 데이터의 클래스 수만큼 답합니다. 내 클래스 수로 새 층을
# 답니다. torchvision의 ResNet에서는 `fc`, 여기서는 `head`입니다.
#
# The last layer of a pretrained network has one output for each class of its own dataset. We
# replace it by a new layer with one output for each of our classes. It is called `fc` in
# torchvision's ResNets, and `head` here.

# %%
# 흔한 셀 / the usual cell
import copy

from torch import nn

from experiments.classifier import pretrained

network, view = pretrained(MODEL, WEIGHTS, seed=0)  # usually: models.resnet50(weights="DEFAULT")
torch.manual_seed(0)
usual = copy.deepcopy(network)
print("before:", usual.head)
usual.head = nn.Linear(usual.head.in_features, len(photos.classes))
print("after: ", usual.head)

# %% [markdown]
# **배치가 하나일 때 / A batch of one**
#
# 이미지 수를 배치 크기로 나눈 나머지가 1이면, 마지막 배치에는 이미지가 하나입니다. `train()`에서
# 배치 정규화는 값 하나로 분산을 구할 수 없어서, 에폭 끝에서 학습이 멈출 수 있습니다. 흔한 해결은
# `drop_last=True`이고, 여기의 학습 루프는 늘 그렇게 합니다. 순서가 매번 바뀌므로 버려지는
# 이미지도 매번 다릅니다.
#
# If the number of images divided by the batch size leaves a remainder of 1, the last batch has one
# image. In `train()` mode, batch norm cannot compute a variance from one value, so training may
# stop at the end of an epoch. The usual fix is `drop_last=True`; our loop always does the same. The
# order changes in every epoch, so each epoch leaves out other images.

# %%
import zoo

try:
    zoo.build("resnet18", num_classes=2).train()(torch.rand(1, 3, 32, 32))
except ValueError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# ## 3. 학습 / Training
#
# 흔한 셀: 에폭마다 한 줄을 출력하고, 검증 곡선을 그립니다. 여기서는 두 에폭만 합니다.
#
# The usual cell prints a line per epoch and draws a validation curve. Below, it runs only two
# epochs.

# %%
# 흔한 셀 / the usual cell
from torch.utils.data import DataLoader
from torchvision import transforms

normalize = [transforms.ToTensor(), transforms.Normalize(view.mean, view.std)]
augment = [transforms.RandomResizedCrop(view.crop), transforms.RandomHorizontalFlip(), *normalize]
center = [transforms.Resize(view.resize), transforms.CenterCrop(view.crop), *normalize]
train_set = datasets.ImageFolder(f"{DATA}/train", transforms.Compose(augment))
val_set = datasets.ImageFolder(f"{DATA}/val", transforms.Compose(center))
train_loader = DataLoader(train_set, 8, shuffle=True, drop_last=True)
optimizer = torch.optim.SGD(usual.parameters(), lr=0.01, momentum=0.9)

for epoch in range(min(EPOCHS, 2)):
    usual.train()
    for images, labels in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(usual(images), labels)
        loss.backward()
        optimizer.step()
    usual.eval()
    with torch.no_grad():
        answers = [usual(images).argmax(1) == labels for images, labels in DataLoader(val_set, 32)]
    print(f"epoch {epoch + 1}: last loss {loss:.3f}, val {torch.cat(answers).float().mean():.1%}")

# %% [markdown]
# ### 여기서는: 죽여도 이어집니다 / Here: a killed training resumes
#
# 같은 학습을 다른 프로세스로 시작하고, 체크포인트가 생기면 `kill -9`로 죽입니다. Colab의 연결이
# 끊긴 것과 같습니다. 체크포인트는 대략 10초마다 저장됩니다.
#
# We start the training in another process. Once there is a checkpoint, we kill the process with
# `kill -9`. A disconnected Colab has the same effect. A checkpoint is saved about every 10 seconds.

# %%
# 여기서는 / here
import subprocess
import time

options = {"model": MODEL, "weights": WEIGHTS, "strategy": "finetune", "seeds": 1}
options |= {"epochs": EPOCHS, "output_dir": RUNS}
words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
words = [word.replace("_", "-") if word.startswith("--") else word for word in words]
Path(RUNS).mkdir(parents=True, exist_ok=True)
with (Path(RUNS) / "killed.txt").open("w") as log:
    command = [sys.executable, "-m", "experiments.transfer", DATA, *words]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    while process.poll() is None and not list(Path(RUNS).glob("*/checkpoint.pt")):
        time.sleep(0.1)
    process.kill()  # kill -9
    process.wait()
print((Path(RUNS) / "killed.txt").read_text(), end="")
print(f"the process is dead: exit code {process.returncode}")

# %% [markdown]
# 이제 커널에서 같은 설정으로 부릅니다. 출력이 어느 스텝에서 이어 가는지 말합니다.
#
# Now we run the same training in the kernel, with the same options. The output says at which step
# it resumes.

# %%
from experiments.transfer.comparison import transfer

results = transfer(DATA, **options)
results

# %% [markdown]
# **무엇이 바뀌었나**: 죽은 학습이 처음부터 다시 하지 않았습니다. 옵티마이저, 학습률, 이미지
# 순서까지 이어지므로 결과는 중단하지 않은 것과 같은 비트입니다(프로젝트의 테스트가 확인합니다).
# 흔한 셀은 처음부터 다시 해야 합니다.
#
# **What changed**: the killed training did not start from the beginning. The optimiser, the
# learning rate and the order of images continue, so the result is bit-identical to that of a run
# without the kill (the project's tests check this). The usual cell has to start from the beginning.

# %% [markdown]
# ## 4. 가장 좋은 에폭 남기기 / Keep the best epoch
#
# 흔한 셀은 `best = model.state_dict()`라고 적습니다. 이것은 사본이 아니라 **참조**라서, 학습이
# 계속되면 함께 바뀝니다. `copy.deepcopy`가 필요합니다.
#
# The usual cell has `best = model.state_dict()`. This is a **reference**, not a copy: its weights
# change as training goes on. Use `copy.deepcopy`.

# %%
# 흔한 셀 / the usual cell
best, copied = usual.state_dict(), copy.deepcopy(usual.state_dict())
images, labels = next(iter(train_loader))
usual.train()
for _ in range(3):  # training goes on
    optimizer.zero_grad()
    nn.functional.cross_entropy(usual(images), labels).backward()
    optimizer.step()
for name, kept in {"state_dict()": best, "deepcopy": copied}.items():
    is_last = torch.equal(kept["head.weight"], usual.head.weight)
    print(
        f"{name}: {'the last weights, not the best ones' if is_last else 'still the best weights'}"
    )

# %%
# 여기서는 / here
from experiments.plumbing.results import read_history

history = read_history(results.best.parent)
for epoch, accuracy in zip(history["epoch"], history["val_accuracy"], strict=True):
    print(f"epoch {epoch:.0f}: val {accuracy:.1%}")
print("files:", ", ".join(sorted(path.name for path in results.best.parent.glob("*.safetensors"))))
print(f"chosen: epoch {results.rows[0]['best_epoch']}")

# %% [markdown]
# **무엇이 바뀌었나**: 가장 좋은 에폭은 검증 데이터로 골라 바로 파일에 씁니다. 테스트 폴더가
# 있으면 고를 때는 보지 않고 마지막에 한 번만 잽니다. 고른 데이터로 보고하면 얼마나 높게
# 나오는지는 노트북 3에서 측정합니다.
#
# **What changed**: the best epoch is chosen on val, and its weights are saved at once. A test
# folder, if there is one, is not used for this choice; its accuracy is measured once, at the end.
# If the same images choose the epoch and measure the accuracy, the result is too high; notebook 3
# measures by how much.

# %% [markdown]
# ## 5. CPU에서 다시 불러오기 / Reload on a CPU
#
# GPU에서 저장한 파일은 `map_location="cpu"` 없이는 CPU에서 열리지 않습니다. 가중치만 있는
# 파일에는 클래스 이름도 전처리도 없으므로, 흔한 셀은 그것들을 다시 적습니다.
#
# Without `map_location="cpu"`, a file saved on a GPU does not load on a CPU. A file of weights
# stores neither class names nor preprocessing, so the usual cell repeats both.

# %%
# 흔한 셀 / the usual cell
path = Path(RUNS) / "usual.pth"
torch.save(copied, path)
reloaded = copy.deepcopy(network)
reloaded.head = nn.Linear(reloaded.head.in_features, len(photos.classes))
reloaded.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
reloaded.eval()
print(path.name, "is loaded; its class names and preprocessing are in nobody's file")

# %%
# 여기서는 / here
from experiments.classifier import load_model, predict

model = load_model(results.best)  # always on the CPU; model.model.to("cuda") moves it
model

# %% [markdown]
# ## 6. 이미지 한 장 / One image
#
# 흔한 셀은 전처리, `unsqueeze(0)`, `eval()`, `softmax`를 모두 손으로 합니다. 하나라도 잊으면 오류
# 없이 틀립니다.
#
# The usual cell does preprocessing, `unsqueeze(0)`, `eval()` and `softmax` by hand. If one of them
# is forgotten, there is no error, but the answers are wrong.

# %%
# 흔한 셀 / the usual cell
from PIL import Image

file, label = val_set.samples[-1]
photo = Image.open(file).convert("RGB")
with torch.no_grad():
    scores = reloaded(transforms.Compose(center)(photo).unsqueeze(0)).softmax(1)[0]
top = scores.topk(min(5, len(scores)))
plt.figure(figsize=(3, 3))
plt.imshow(photo)
plt.title(f"{photos.classes[top.indices[0]]}, {100 * top.values[0]:.1f} %")
plt.axis("off")
plt.show()
for score, i in zip(top.values, top.indices, strict=True):
    print(f"{photos.classes[i]}: {score:.1%}")

# %%
# 여기서는 / here
predict(model, file)

# %% [markdown]
# 클래스가 둘이라 상위 5개도 둘뿐입니다. 이 작은 신경망은 검증에서 셋 중 하나를 틀리므로, 위의
# 답도 틀릴 수 있습니다. 아래는 미세 조정하기 **전** 신경망의 상위 5개입니다. CIFAR-10의 클래스만
# 알아서, 곤충을 보고도 그중 하나를 골라야 합니다. 확률이 높다고 아는 것은 아닙니다.
#
# There are only two classes, so the top 5 has two entries. This small network misclassifies one of
# three validation images, so the answer above may be wrong. Below is the top 5 of the network
# **before** fine-tuning. That network knows only the classes of CIFAR-10, so it has to choose one
# of them for an insect. A high probability does not mean that the answer is right.

# %%
names = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
old = load_model(WEIGHTS, MODEL, classes=names if WEIGHTS.endswith(".th") else None)
predict(old, file, k=5)

# %% [markdown]
# ### 예측에서 흔한 실수의 비용 / What common mistakes cost at prediction
#
# 같은 파일, 같은 검증 이미지에서 실수를 하나씩만 합니다: 다른 전처리, 잊은 `eval()`, 한 장씩
# 넣기.
#
# We use the same file and the same validation images, and make one mistake at a time: other
# preprocessing, a forgotten `eval()`, images one by one.

# %%
from dataclasses import replace

from data.images import load_image
from data.view_batches import normalize_as
from experiments.plumbing.tables import Rows

decoded = [load_image(Path(name)) for name, _ in val_set.samples]
truth = torch.tensor(val_set.targets)
whole = replace(view, squash=True)
right = normalize_as(model.view)(torch.stack([model.view(image) for image in decoded]))
squashed = torch.stack([whole(image) for image in decoded])


@torch.no_grad()
def accuracy(images: torch.Tensor, train_mode: bool = False, size: int = 1) -> float:
    """Accuracy of the best model; a copy of it, since train mode moves its statistics."""
    network = copy.deepcopy(model.model).train(train_mode)
    shuffled = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))
    answers = [network(images[i]).argmax(1) == truth[i] for i in shuffled.split(size)]
    return torch.cat(answers).float().mean().item()


normal = right * torch.tensor(view.std).view(3, 1, 1) + torch.tensor(view.mean).view(3, 1, 1)
cases = {
    "as trained": accuracy(right),
    "no Normalize": accuracy(normal),
    "values 0 to 255": accuracy(255 * normal),
    "mean = std = 0.5": accuracy((normal - 0.5) / 0.5),
    "BGR, as OpenCV reads": accuracy(right.flip(1)),
    "squashed to a square": accuracy(normalize_as(whole)(squashed)),
    "eval() forgotten, batches of 32": accuracy(right, True, 32),
    "eval() forgotten, a batch of one": accuracy(right, True, 1),
}
lines = [
    [name, f"{100 * share:.1f}", f"{100 * (share - cases['as trained']):+.1f}"]
    for name, share in cases.items()
]
print(f"n = {len(truth)} images, one network, one seed; a point is {len(truth) / 100:.1f} images")
Rows(("prediction", "accuracy %", "points"), lines)

# %% [markdown]
# **무엇이 바뀌었나**: `load_model`은 전처리와 클래스 이름을 파일에서 읽고 늘 `eval()`로
# 계산하므로, 표의 실수를 할 자리가 없습니다. 음수가 실수의 비용이고, 오류를 낸 실수는 하나도
# 없습니다. 153장에서는 몇 점 차이가 우연일 수 있으므로 큰 것만 믿습니다: 정규화를 빼거나 다르게
# 하는 것, 한 장씩 넣으면서 `eval()`을 잊는 것. 나머지는 이 데이터로 가릴 수 없습니다.
#
# **What changed**: `load_model` reads preprocessing and class names from the file, and predictions
# always use `eval()`. So these mistakes cannot happen. Negative numbers are the cost of a mistake;
# no mistake raised an error. With 153 images, a difference of a few points may be chance. Trust
# only the large ones: missing or different normalisation, and a batch of one with `eval()`
# forgotten. These images are too few to distinguish the others from 0.

# %% [markdown]
# ## 7. torchvision이 읽는 `.pth` / A `.pth` that torchvision reads
#
# `zoo.export`는 torchvision의 이름으로 가중치를 줍니다. torchvision에는 ResNet-32가 없으므로,
# 그때는 여기서 만든 (학습하지 않은) ResNet-18로 보여 줍니다. `resnet50`으로 학습했다면 그 신경망
# 그대로입니다.
#
# `zoo.export` returns the weights under torchvision's names. torchvision has no ResNet-32, so we
# export an untrained ResNet-18 instead. If you trained `resnet50`, the cell exports that network.

# %%
import torchvision

name = MODEL if MODEL in torchvision.models.list_models() else "resnet18"
trained = model.model if name == MODEL else zoo.build(name, num_classes=len(model.classes))
torch.save(zoo.export(trained, "torchvision"), Path(RUNS) / f"{name}.pth")

theirs = torchvision.models.get_model(name, num_classes=len(model.classes))
weights = torch.load(Path(RUNS) / f"{name}.pth", map_location="cpu", weights_only=True)
print(theirs.load_state_dict(weights, strict=True))
with torch.no_grad():
    sample = torch.rand(2, 3, 64, 64)
    difference = (theirs.eval()(sample) - trained.eval()(sample)).abs().max().item()
print(f"torchvision's {name} and ours differ by at most {difference}")

# %% [markdown]
# **ResNet-50으로 (여기서는 실행하지 않음 / not run here)**: `IMAGENET = True`로 바꾸면 ImageNet
# 가중치로 시작합니다. 첫 실행에서 98 MB를 내려받습니다. GPU가 있으면 좋습니다.
#
# **With ResNet-50**: set `IMAGENET = True` to start from ImageNet weights. The first run
# downloads 98 MB. A GPU helps.

# %% tags=["not-run"]
if IMAGENET:
    results = transfer(DATA, model="resnet50", strategy="finetune", seeds=1, output_dir=RUNS)
    model = load_model(results.best)
    torch.save(zoo.export(model.model, "torchvision"), Path(RUNS) / "resnet50.pth")
    display(results, predict(model, file))  # noqa: F821
