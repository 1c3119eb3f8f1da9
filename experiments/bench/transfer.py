"""Transfer learning, timed against the loop of PyTorch's tutorial on the same images.

The tutorial ("Transfer Learning for Computer Vision") uses ImageFolder, PIL transforms, a
DataLoader (here without its four workers: one thread) and torchvision's network in fp32. Its frozen
network computes the features of every image again in every epoch.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from data.decoding import DecodedOnUse, Form, Images, decode_all
from data.images import load_image
from data.store import DecodedOnce
from data.view_batches import StepDataset, ViewBatches, every_image
from data.views import RandomView, View
from experiments.bench.networks import both_networks
from experiments.bench.timing import CPU, EAGER, Comparison, compare_steps, same, scratch_folder
from experiments.classifier import save_classifier
from experiments.plumbing.precision import choose_precision
from experiments.transfer.probe import features_of, logistic_regression

EPOCHS, BATCH = 25, 4  # the tutorial's
VIEW = View()
RANDOM_VIEW = RandomView(view=VIEW)
FINISH = [transforms.ToTensor(), transforms.Normalize(list(VIEW.mean), list(VIEW.std))]
TRANSFORMS = {
    "train": [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *FINISH],
    "val": [transforms.Resize(256), transforms.CenterCrop(224), *FINISH],
}


@cache
def drawn_images() -> Path:
    """A folder of 48 + 24 JPEGs of two classes, of 500x375 pixels and about 75 kB, like photos."""
    root, rng = scratch_folder(), np.random.default_rng(0)
    for folder, count in (("train/one", 24), ("train/two", 24), ("val/one", 12), ("val/two", 12)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            small = Image.fromarray(rng.integers(0, 256, (94, 125, 3), dtype=np.uint8))
            small.resize((500, 375)).save(root / folder / f"{i}.jpg", quality=85)
    return root


def tutorial_loader(split: str) -> DataLoader:
    """The tutorial's shuffled batches of a split."""
    images = ImageFolder(str(drawn_images() / split), transforms.Compose(TRANSFORMS[split]))
    return DataLoader(images, BATCH, shuffle=True)


def files_and_labels(split: str) -> tuple[list[str], Tensor]:
    """The paths of a split's images, and their labels int64 (N,)."""
    samples = ImageFolder(str(drawn_images() / split)).samples
    return [file for file, _ in samples], torch.tensor([label for _, label in samples])


def stored(split: str, form: Form, folder: Path) -> tuple[Images, Tensor]:
    """A split's images, decoded once and stored in `folder`, and their labels."""
    files, labels = files_and_labels(split)
    images = DecodedOnce(files, form, folder)
    list(decode_all(images, 0))  # stores them
    return images, labels


def batches_of(
    images: Images, labels: Tensor, batch_size: int, device: torch.device = CPU
) -> ViewBatches:
    """Our training batches of random views."""
    return ViewBatches(StepDataset(images, labels, RANDOM_VIEW, batch_size, 0), device)


def compare_probe(device: torch.device = CPU) -> Comparison:
    """The tutorial's frozen ResNet-18, with evaluation / our linear probe, with decoding."""
    theirs, ours = both_networks("resnet18", 2)
    theirs, ours = theirs.to(device), ours.to(device)
    images = torch.randn(4, 3, 224, 224, device=device)
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.eval().children())[:-1])(images).flatten(1)
    computed, _ = features_of(ours, [(images, images)], EAGER)
    difference = float((computed - expected.cpu()).abs().max())
    same(difference, 0, 1e-4)
    training, evaluation = map(tutorial_loader, ("train", "val"))
    head = theirs.requires_grad_(False).get_submodule("fc").requires_grad_(True)
    optimizer = torch.optim.SGD(head.parameters(), 0.001, momentum=0.9)
    batches = batches_of(*stored("train", RANDOM_VIEW.stored, scratch_folder()), 8, device)
    chosen, _ = choose_precision("auto", ours, batches, EAGER, device)

    def one_epoch() -> int:
        theirs.train()
        for images, labels in training:
            optimizer.zero_grad()
            cross_entropy(theirs(images.to(device)), labels.to(device)).backward()
            optimizer.step()
        theirs.eval()
        with torch.no_grad():
            guesses = [theirs(x.to(device)).argmax(1).cpu() == y for x, y in evaluation]
            return sum(int(right.sum()) for right in guesses)

    def features(split: str, folder: str) -> tuple[Tensor, Tensor]:
        images = every_image(*stored(split, VIEW, Path(folder)), VIEW, 32, device)
        return features_of(ours, images, chosen)

    def whole() -> int:
        with tempfile.TemporaryDirectory() as folder:
            weight, bias = logistic_regression(*features("train", folder), 2, 1e-3)
            inputs, labels = features("val", folder)
            return int(((inputs @ weight.T + bias).argmax(1) == labels).sum())

    title = f"linear probe, resnet18: the tutorial's {EPOCHS} epochs (one timed) / ours, complete"
    checked = f"fp32 features within {difference:.0e}"
    return Comparison(title, one_epoch, whole, checked, EPOCHS)


def compare_step(model_name: str, batch_size: int) -> Comparison:
    """A fine-tuning step: torchvision, eager fp32 / ours, as --precision auto chooses."""
    batches = batches_of(*stored("train", RANDOM_VIEW.stored, scratch_folder()), batch_size)
    title = f"{model_name} fine-tuning step, batch {batch_size} at 224: torchvision"
    return compare_steps(title, *both_networks(model_name, 2), batches)


SCRIPT = """
import sys, torch
from PIL import Image
from torchvision import models, transforms
model = models.resnet18(num_classes=2)
model.load_state_dict(torch.load(sys.argv[1], weights_only=True))
prepare = transforms.Compose([
    transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])
with torch.no_grad():
    logits = model.eval()(prepare(Image.open(sys.argv[2]).convert("RGB"))[None])
for score, label in zip(*logits.softmax(1)[0].topk(2)):
    print(f"{['one', 'two'][label]} {100 * score:.1f} %")
"""


def compare_one_image() -> Comparison:
    """From Enter to the answer, with imports: a script with torchvision / experiments.predict."""
    folder = scratch_folder()
    theirs, model = both_networks("resnet18", 2)
    torch.save(theirs.state_dict(), folder / "theirs.pth")
    save_classifier(folder / "ours.safetensors", "resnet18", model, ("one", "two"), VIEW, {})
    image = files_and_labels("val")[0][0]
    command = "-m", "experiments.predict", str(folder / "ours.safetensors"), image
    plain = "-c", SCRIPT, str(folder / "theirs.pth"), image
    usual, ours = partial(printed, *plain), partial(printed, *command)
    answers = [re.findall(r"(one|two) ([\d.]+) %", side()) for side in (usual, ours)]
    same(float(answers[0] == answers[1]), 1, 0)
    title = "one image, resnet18, from Enter to the answer: a script with torchvision / predict"
    return Comparison(title, usual, ours, f"same answer: {' '.join(answers[0][0])} %")


def printed(*arguments: str) -> str:
    """What a new Python process prints."""
    words = [sys.executable, *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


DATA_PATHS = {
    "streamed": "decoded at every use",
    "first": "first epoch, storing the decoded images",
    "later": "later epochs",
}


def compare_data(way: str) -> Comparison:
    """An epoch of random views at 224x224: the tutorial's loader / ours. `way`: see DATA_PATHS."""
    files, labels = files_and_labels("train")
    for file in files[:8]:
        theirs = transforms.functional.pil_to_tensor(Image.open(file))
        same(int((theirs.int() - load_image(file)).abs().max()), 0, 0)
    loader, form = tutorial_loader("train"), RANDOM_VIEW.stored
    later = stored("train", form, scratch_folder())

    def usual() -> None:
        for _ in loader:
            pass

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            images = later
            if way == "streamed":
                images = DecodedOnUse(tuple(files), form), labels
            elif way == "first":
                images = stored("train", form, Path(folder))
            batches = batches_of(*images, BATCH)
            for step in range(len(batches)):
                batches.batch(step)

    title = f"data path, {DATA_PATHS[way]}: the tutorial's loader / ours"
    return Comparison(title, usual, ours, "8 files: same decoded pixels")


COMPARISONS: dict[str, Callable[[], Comparison]] = {
    "training-resnet18": partial(compare_step, "resnet18", 8),
    "training-resnet50": partial(compare_step, "resnet50", 8),
    "probe": compare_probe,
    "one-image": compare_one_image,
    **{f"data-{way}": partial(compare_data, way) for way in DATA_PATHS},
}
