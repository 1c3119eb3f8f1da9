"""Published weights by name, with their accuracy, preprocessing and classes."""

import pytest

import zoo


def test_published_weights_have_their_accuracy_preprocessing_and_classes():
    """The numbers are from the table in torchvision's documentation; V2 resizes to 232."""
    table = {("resnet18", "IMAGENET1K_V1"): (69.758, 256),
             ("resnet34", "IMAGENET1K_V1"): (73.314, 256),
             ("resnet50", "IMAGENET1K_V1"): (76.130, 256),
             ("resnet50", "IMAGENET1K_V2"): (80.858, 232),
             ("resnet101", "IMAGENET1K_V2"): (81.886, 232),
             ("resnet152", "IMAGENET1K_V2"): (82.284, 232)}  # fmt: skip
    for (model, name), (top1, resize) in table.items():
        found = zoo.published(model, name)
        assert (found.model, found.name) == (model, name)
        assert (found.top1, found.preprocess["resize"]) == (top1, resize)
        shown, classes = found.preprocess, found.classes
        assert (shown["crop"], shown["interpolation"]) == (224, "bilinear")
        assert (shown["mean"], shown["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert (len(classes), classes[0]) == (1000, "tench")
    assert zoo.published("resnet50").name == "IMAGENET1K_V2"
    for model, name in (
        ("plain18", "DEFAULT"), ("resnet50", "V3"), ("resnet8", "DEFAULT"),
        ("resnet20", "CIFAR10_LI"), ("plain56", "CIFAR10_AKAMASTER"),
    ):  # fmt: skip
        with pytest.raises(zoo.WeightsError, match="weights"):
            zoo.published(model, name)


def test_published_cifar_networks_have_their_shortcuts_preprocessing_and_classes():
    """Akamaster's have padded shortcuts and ImageNet's mean and std; Li's none, or projections."""
    names = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "plain56")
    found = {name: zoo.published(name) for name in names} | {
        "li": zoo.published("resnet56", "CIFAR10_LI")
    }
    assert [found[name].top1 for name in names] == [91.73, 92.63, 93.10, 93.39, 93.68, 86.69]
    shortcuts = {name: entry.settings["shortcut"] for name, entry in found.items()}
    assert shortcuts == dict.fromkeys(names, "pad") | {"plain56": "none", "li": "projection"}
    for name, entry in found.items():
        of_li = name in ("plain56", "li")
        assert entry.preprocess["mean"][0] == (0.49137 if of_li else 0.485)
        assert entry.preprocess["input_size"] == 32
        assert len(entry.sha256) == (8 if name == "resnet110" else 64)
        assert entry.classes[-1] == "truck"
