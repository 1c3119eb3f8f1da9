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
# 데이터를 보고, 헤드(head)를 바꾸고, 학습하고, 가장 좋은 에폭을 저장해 CPU에서 다시 불러옵니다.
# 이미지 한 장을 제목과 상위 5개(top 5) 예측과 함께 보여 주고, torchvision이 읽을 수 있는 `.pth`를
# 저장합니다. 학습을 `kill -9`로 강제 종료한 뒤 이어서 학습합니다. 모든 셀을 실행하는 데 CPU 코어
# 2개로 약 1분 걸렸습니다. "여기서는 실행하지 않음"이라고 적힌 셀은 아무 일도 하지 않습니다.
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
# 있는 폴더입니다: `my_images/train/cat/1.jpg`. `my_images/cat/1.jpg`만 있어도 skipzoo는 나누어
# 쓰지만, 흔히 쓰는 코드는 오류를 냅니다. 여기서는 ImageNet 가중치를 내려받을 수 없어서 CIFAR-10으로
# 학습한 ResNet-32를 씁니다. 보통은 `MODEL = "resnet50"`으로 설정합니다.
#
# To use your own images, set `DATA` to a folder with `train/` and `val/`, and one folder per class
# in each: `my_images/train/cat/1.jpg`. skipzoo also splits a folder such as `my_images/cat/1.jpg`,
# but the usual cells fail with it. ImageNet weights cannot be downloaded here, so we use a
# ResNet-32 trained on CIFAR-10. The usual setting is `MODEL = "resnet50"`.

# %% tags=["parameters"]
DATA = "cache/hymenoptera_data"
MODEL = "resnet32"
WEIGHTS = "DEFAULT"
EPOCHS = 8
RUNS = "runs/drive"
IMAGENET = False  # True: also run the last cell: a ResNet-50 with ImageNet weights

# %% [markdown]
# **Drive 연결 (여기서는 실행하지 않음 / not run here)**: Colab의 연결이 끊기면 파일이 지워집니다.
# 결과를 Drive에 두면, 같은 셀을 다시 실행했을 때 학습이 이어집니다. Colab이 아닌 곳에서는
# `runs/drive`가 Drive를 대신합니다.
#
# **Mount Drive**: Colab deletes its files when it disconnects. If the results are on Drive, run the
# same cell again to resume the training. Outside Colab, `runs/drive` replaces Drive.

# %% tags=["not-run"]
if "google.colab" in sys.modules:
    from google.colab import drive

    drive.mount("/content/drive")
    RUNS = "/content/drive/MyDrive/skipzoo-runs"

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
for folder in sorted(path for path in Path(DATA).glob("*/*") if path.is_dir()):
    print(f"{folder.parent.name}/{folder.name}: {len(list(folder.iterdir()))} images")

# %% [markdown]
# ## 1. 데이터 보기 / Look at the data
#
# 흔히 쓰는 코드는 `ImageFolder`로 클래스와 사진 몇 장을 보여 줍니다. 깨진 파일이나 중복된 사진은
# 알려 주지 않습니다.
#
# The usual cell lists the classes and shows a few images with `ImageFolder`. It does not find
# broken files or duplicates.

# %%
# 흔히 쓰는 코드 / the usual cell
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
# skipzoo에서는 / here
from experiments import check_data

check_data.main(check_data.Options(Path(DATA), workers=0))

# %% [markdown]
# **달라진 점**: 모든 파일을 실제로 디코딩하고, 학습 세트와 검증 세트에 같은 파일이 있는지
# 찾습니다(크기만 바꾼 사본은 `pip install imagehash`를 하면 찾습니다). 깨진 파일이 있으면 파일
# 이름을 알려 주고 검사를 멈춥니다. 그래서 학습 도중 어느 에폭에서 갑자기 멈추는 일이 없습니다.
#
# **What changed**: the check decodes every file and finds files that are in both train and val (and
# resized copies, after `pip install imagehash`). A broken file stops the check, which names the
# file. So it cannot stop the training in a later epoch.

# %% [markdown]
# ## 2. 헤드 바꾸기 / Replace the head
#
# 사전 학습된 네트워크의 마지막 층은 사전 학습 데이터의 클래스를 출력합니다. 이 층을 출력 수가 내
# 클래스 수와 같은 새 층으로 바꿉니다. 이 층의 이름은 torchvision의 ResNet에서는 `fc`,
# skipzoo에서는 `head`입니다.
#
# The last layer of a pretrained network has one output for each class of its own dataset. We
# replace it by a new layer with one output for each of our classes. It is called `fc` in
# torchvision's ResNets, and `head` here.

# %%
# 흔히 쓰는 코드 / the usual cell
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
# **이미지가 한 장뿐인 배치 / A batch of one**
#
# 이미지 수를 배치 크기로 나눈 나머지가 1이면, 마지막 배치에는 이미지가 한 장뿐입니다. `train()`
# 모드의 배치 정규화(batch norm)는 값 하나로는 분산을 구할 수 없어서, 에폭 끝에서 학습이 오류로
# 멈출 수 있습니다. 흔한 해결책은 `drop_last=True`이고, skipzoo의 학습 루프는 늘 그렇게 합니다.
# 에폭마다 순서가 바뀌므로 빠지는 이미지도 매번 다릅니다.
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
# 흔히 쓰는 코드는 에폭마다 한 줄을 출력합니다. 이 코드로는 2에폭만 학습합니다. 검증 곡선은 아래에서
# skipzoo가 그립니다.
#
# The usual cell prints a line per epoch. Here it runs only two epochs. skipzoo draws the validation
# curve below.

# %%
# 흔히 쓰는 코드 / the usual cell
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
# ### skipzoo에서는: 강제 종료해도 이어집니다 / Here: a killed training resumes
#
# 다른 프로세스에서 학습을 시작하고, 체크포인트가 생기면 `kill -9`로 강제 종료합니다. Colab의
# 연결이 끊긴 상황과 같습니다. 체크포인트는 약 10초마다 저장됩니다.
#
# We start the training in another process. Once there is a checkpoint, we kill the process with
# `kill -9`. A disconnected Colab has the same effect. A checkpoint is saved about every 10 seconds.

# %%
# skipzoo에서는 / here
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
# 이제 커널에서 같은 옵션으로 호출합니다. 몇 번째 스텝부터 이어서 학습하는지 출력에 나옵니다.
#
# Now we run the same training in the kernel, with the same options. The output says at which step
# it resumes.

# %%
from experiments.transfer.comparison import transfer

results = transfer(DATA, **options)
results

# %% [markdown]
# **달라진 점**: 강제 종료된 학습이 처음부터 다시 시작하지 않았습니다. 옵티마이저, 학습률, 이미지
# 순서까지 그대로 이어지므로 결과는 중단하지 않았을 때와 비트 단위까지 같습니다(프로젝트의 테스트가
# 확인합니다). 흔히 쓰는 코드는 처음부터 다시 학습해야 합니다.
#
# **What changed**: the killed training did not start from the beginning. The optimiser, the
# learning rate and the order of images continue, so the result is bit-identical to that of a run
# without the kill (the project's tests check this). The usual cell has to start from the beginning.

# %% [markdown]
# ## 4. 가장 좋은 에폭 저장하기 / Keep the best epoch
#
# 흔히 `best = model.state_dict()`라고 씁니다. 이것은 복사본이 아니라 **참조**(reference)라서,
# 학습이 계속되면 함께 바뀝니다. `copy.deepcopy`가 필요합니다.
#
# The usual cell has `best = model.state_dict()`. This is a **reference**, not a copy: its weights
# change as training goes on. Use `copy.deepcopy`.

# %%
# 흔히 쓰는 코드 / the usual cell
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
# skipzoo에서는 / here
from experiments.plumbing.results import read_history

history = read_history(results.best.parent)
for epoch, accuracy in zip(history["epoch"], history["val_accuracy"], strict=True):
    print(f"epoch {epoch:.0f}: val {accuracy:.1%}")
print("files:", ", ".join(sorted(path.name for path in results.best.parent.glob("*.safetensors"))))
print(f"chosen: epoch {results.rows[0]['best_epoch']}")

# %% [markdown]
# **달라진 점**: 가장 좋은 에폭을 검증 세트로 고르고 바로 파일에 저장합니다. 테스트 폴더가 있으면
# 에폭을 고를 때는 보지 않고 마지막에 한 번만 측정합니다. 에폭을 고를 때 쓴 이미지로 정확도를
# 보고하면 얼마나 부풀려지는지는 노트북 3에서 다른 학습으로 측정합니다.
#
# **What changed**: the best epoch is chosen on val, and its weights are saved at once. A test
# folder, if there is one, is not used for this choice; its accuracy is measured once, at the end.
# If the same images choose the epoch and measure the accuracy, the result is too high; notebook 3
# measures by how much.

# %% [markdown]
# ## 5. CPU에서 다시 불러오기 / Reload on a CPU
#
# GPU에서 저장한 파일은 `map_location="cpu"` 없이는 CPU에서 열리지 않습니다. 가중치만 담은 파일에는
# 클래스 이름도 전처리 방법도 없으므로, 흔히 쓰는 코드에서는 이것들을 다시 적습니다.
#
# Without `map_location="cpu"`, a file saved on a GPU does not load on a CPU. A file of weights
# stores neither class names nor preprocessing, so the usual cell repeats both.

# %%
# 흔히 쓰는 코드 / the usual cell
path = Path(RUNS) / "usual.pth"
torch.save(copied, path)
reloaded = copy.deepcopy(network)
reloaded.head = nn.Linear(reloaded.head.in_features, len(photos.classes))
reloaded.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
reloaded.eval()
print(path.name, "is loaded; its class names and preprocessing are in nobody's file")

# %%
# skipzoo에서는 / here
from experiments.classifier import load_model, predict

model = load_model(results.best)  # always on the CPU; model.model.to("cuda") moves it
model

# %% [markdown]
# ## 6. 이미지 한 장 / One image
#
# 흔히 쓰는 코드에서는 전처리, `unsqueeze(0)`, `eval()`, `softmax`를 모두 직접 합니다. 전처리나
# `eval()`을 잊으면 오류는 나지 않고 답만 틀립니다. 아래 두 셀은 서로 다른 네트워크(2에폭, 전체
# 에폭)를 쓰므로 확률이 다릅니다.
#
# The usual cell does preprocessing, `unsqueeze(0)`, `eval()` and `softmax` by hand. If the
# preprocessing or `eval()` is forgotten, there is no error, but the answers are wrong. The two
# cells below use different networks, of 2 epochs and of all epochs, so their probabilities differ.

# %%
# 흔히 쓰는 코드 / the usual cell
from PIL import Image

file, label = val_set.samples[-1]
photo = Image.open(file).convert("RGB")
with torch.no_grad():
    scores = reloaded(transforms.Compose(center)(photo).unsqueeze(0)).softmax(1)[0]
top = scores.topk(min(5, len(scores)))
plt.figure(figsize=(3, 3))
plt.imshow(photo)
answer, truth = photos.classes[top.indices[0]], photos.classes[label]
plt.title(f"{answer}, {100 * top.values[0]:.1f} % (truth: {truth})", size=9)
plt.axis("off")
plt.show()
for score, i in zip(top.values, top.indices, strict=True):
    print(f"{photos.classes[i]}: {score:.1%}")

# %%
# skipzoo에서는 / here
predict(model, file)

# %% [markdown]
# 클래스가 두 개라서 상위 5개도 두 개뿐입니다. 이 작은 네트워크는 검증 이미지 세 장 중 한 장을
# 틀립니다. 이 사진은 벌이므로(첫 셀 제목의 truth) 두 답 모두 틀렸습니다. 아래는 미세 조정하기
# **전** 네트워크의 상위 5개입니다. CIFAR-10의 클래스만 알기 때문에 곤충을 보고도 그중 하나를 골라야
# 합니다. 확률이 높다고 해서 정답을 안다는 뜻은 아닙니다.
#
# There are only two classes, so the top 5 has two entries. This small network misclassifies one of
# three validation images. This photo shows a bee (the first of the two titles says so), so both
# answers are wrong. Below is the top 5 of the network **before** fine-tuning. That network knows
# only the classes of CIFAR-10, so it has to choose one of them for an insect. A high probability
# does not mean that the answer is right.

# %%
old = load_model(WEIGHTS, MODEL)
predict(old, file, k=5)

# %% [markdown]
# ### 예측할 때 흔한 실수의 비용 / What common mistakes cost at prediction
#
# 같은 파일과 같은 검증 이미지로, 한 번에 하나씩 실수해 봅니다: 다른 전처리, 빠뜨린 `eval()`, 한
# 장씩 넣기.
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
# **달라진 점**: `load_model`은 전처리와 클래스 이름을 파일에서 읽고 늘 `eval()` 모드로 계산하므로,
# 표에 있는 실수를 할 여지가 없습니다. 음수가 실수의 비용이며, 어떤 실수도 오류를 내지 않았습니다.
# 153장에서 몇 %p의 차이는 우연일 수 있으므로 큰 차이만 믿으세요: 정규화를 빼거나 다르게 한 것,
# 그리고 `eval()`을 빠뜨린 채 한 장씩 넣은 것입니다. 나머지는 이 이미지들만으로는 0과 구별할 수
# 없습니다.
#
# **What changed**: `load_model` reads preprocessing and class names from the file, and predictions
# always use `eval()`. So these mistakes cannot happen. Negative numbers are the cost of a mistake;
# no mistake raised an error. With 153 images, a difference of a few points may be chance. Trust
# only the large ones: missing or different normalisation, and a batch of one with `eval()`
# forgotten. These images are too few to distinguish the others from 0.

# %% [markdown]
# ## 7. torchvision이 읽을 수 있는 `.pth` / A `.pth` that torchvision reads
#
# `zoo.export`는 torchvision의 이름에 맞춘 가중치를 돌려줍니다. torchvision에는 ResNet-32가
# 없으므로, 이때는 여기서 만든 (학습하지 않은) ResNet-18로 보여 줍니다. `resnet50`을 학습했다면 그
# 네트워크를 저장합니다.
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
# **ResNet-50으로 (여기서는 실행하지 않음 / not run here)**: ImageNet 가중치에서 시작하려면
# `IMAGENET = True`로 바꾸세요. 처음 실행할 때 98 MB를 내려받습니다. GPU가 있으면 좋습니다.
#
# **With ResNet-50**: set `IMAGENET = True` to start from ImageNet weights. The first run
# downloads 98 MB. A GPU helps.

# %% tags=["not-run"]
if IMAGENET:
    results = transfer(DATA, model="resnet50", strategy="finetune", seeds=1, output_dir=RUNS)
    model = load_model(results.best)
    torch.save(zoo.export(model.model, "torchvision"), Path(RUNS) / "resnet50.pth")
    display(results, predict(model, file))  # noqa: F821
