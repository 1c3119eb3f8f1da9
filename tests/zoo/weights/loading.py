"""Weights to load, and what a refusal must look like."""

import pytest
import torch
from torch import nn

import zoo
from experiments.proof.checks import shake


def shaken(name: str, *arguments, **settings) -> nn.Module:
    model = zoo.build(name, *arguments, **settings)
    shake(model)
    return model


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def refused(model, source, *words: str, **options) -> None:
    """Refused in three lines that say `words`, with the model untouched."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(zoo.WeightsError) as error:
        zoo.load(model, source, **options)
    lines = str(error.value).split("\n")
    assert len(lines) == 3
    assert all(line.strip() for line in lines)
    for word in words:
        assert word in str(error.value), (word, str(error.value))
    assert same(before, model.state_dict())


def changed(state: dict, **changes) -> dict:
    """The state dict with entries added or exchanged, or left out where a change is None."""
    state = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in state.items() if value is not None}
