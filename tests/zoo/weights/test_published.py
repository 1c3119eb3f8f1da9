"""torchvision's published weights, with their accuracy, preprocessing and classes."""

import pytest

import zoo


def test_published_weights_have_their_accuracy_preprocessing_and_classes():
    """The numbers are from the table in torchvision's documentation; V2 resizes to 232."""
    table = {("resnet18", "IMAGENET1K_V1"): (69.758, 89.078, 256),
             ("resnet34", "IMAGENET1K_V1"): (73.314, 91.420, 256),
             ("resnet50", "IMAGENET1K_V1"): (76.130, 92.862, 256),
             ("resnet50", "IMAGENET1K_V2"): (80.858, 95.434, 232),
             ("resnet101", "IMAGENET1K_V2"): (81.886, 95.780, 232),
             ("resnet152", "IMAGENET1K_V2"): (82.284, 96.002, 232)}  # fmt: skip
    for (model, name), (top1, top5, resize) in table.items():
        found = zoo.published(model, name)
        assert (found.model, found.name) == (model, name)
        assert (found.top1, found.top5, found.preprocess["resize"]) == (top1, top5, resize)
        shown, classes = found.preprocess, found.classes
        assert (shown["crop"], shown["interpolation"]) == (224, "bilinear")
        assert (shown["mean"], shown["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert (len(classes), classes[0]) == (1000, "tench")
    assert zoo.published("resnet50").name == "IMAGENET1K_V2"
    for model, name in (("plain18", "DEFAULT"), ("resnet50", "V3"), ("resnet20", "DEFAULT")):
        with pytest.raises(zoo.WeightsError, match="weights"):
            zoo.published(model, name)
