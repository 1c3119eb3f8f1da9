"""For torch.hub.load(REPOSITORY, "resnet50", weights="IMAGENET1K_V2"): any network by its name."""

import functools

import zoo

dependencies = ["torch", "safetensors"]
globals().update({name: functools.partial(zoo.build, name) for name in zoo.list_models()})
