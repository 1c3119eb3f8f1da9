"""For inference, a batch norm can be folded into the convolution before it: one layer, not two.

In evaluation the statistics are constants. After a convolution with weights W and bias a (0 if
there is none), a batch norm with mean m, variance v, weight g and bias b computes, in each channel,

    y = s (conv(x; W, a) - m) + b,   s = g / sqrt(v + eps)      (1)

A convolution is linear in W and a, so y is the output of another convolution:

    y = conv(x; s W, s (a - m) + b)                             (2)

The outputs are equal up to rounding, and the map is read and written one time less. In training
this is not possible: there, m and v depend on x.

Source: Jacob et al. 2017 (arXiv 1712.05877), section 3.2, equation 14.
"""

import copy
import os
import shutil
from collections import Counter

import torch
from torch import Tensor, fx, nn


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that computes norm(conv(x)) in eval mode: equation 2, computed in float64."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    gain = torch.ones_like(mean) if norm.weight is None else norm.weight.detach()
    bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach()
    old_bias = torch.zeros_like(mean) if conv.bias is None else conv.bias.detach()
    scale = gain.double() / (variance.double() + norm.eps).sqrt()  # s of equation 1
    merged = copy.deepcopy(conv)
    merged.weight = nn.Parameter((scale.view(-1, 1, 1, 1) * conv.weight.double()).to(conv.weight))
    merged.bias = nn.Parameter((scale * (old_bias - mean.double()) + bias).to(conv.weight))
    return merged


def fold(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy for inference with folded batch norms, and the names of the norms that stay.

    A norm is folded if it has running statistics and follows a convolution whose output nothing
    else reads, both are called once and have no hooks, and torch.fx can trace the network. In the
    copy, folded norms are nn.Identity.
    """
    model = copy.deepcopy(model).eval()
    left = [name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)]
    if not left:
        return model, []  # a ViT, or a network without norms
    try:
        graph = fx.symbolic_trace(model).graph  # which layer reads which output
    except Exception:  # a forward that depends on its input's values, or whatever fx does not know
        return model, left
    layers = [node for node in graph.nodes if node.op == "call_module"]
    # What is used twice stays as it is; a weight that is read elsewhere counts as a use.
    uses = Counter(str(node.target) for node in layers)
    reads = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    uses.update(name.rpartition(".")[0] for name in reads)
    for node in layers:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        places = str(before.target), str(node.target)
        conv, norm = map(model.get_submodule, places)
        once = all(uses[place] == 1 for place in places)
        if once and is_ordinary(conv, nn.Conv2d) and is_ordinary(norm, nn.BatchNorm2d):
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            if norm.running_mean is not None:  # else it computes statistics of each batch
                model.set_submodule(places[0], folded(conv, norm))
                model.set_submodule(places[1], nn.Identity())
                left.remove(places[1])
    return model, left


def is_ordinary(module: nn.Module, kind: type) -> bool:
    """Whether it is just such a layer, without hooks and without a weight that is computed."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module) is kind and not hooks and "weight" in module._parameters


class ForInference(nn.Module):
    """(N, 3, H, W) float32 -> the tensor that `model` returns in eval mode, in float32.

    Raises TypeError if it returns anything else.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, compiled: bool) -> None:
        super().__init__()
        self.dtype, self.compiled = dtype, compiled
        self.network, self.not_folded = fold(model)  # the second: names of batch norms
        self.network = self.network.to(dtype).to(memory_format=torch.channels_last)
        # With freezing, the compiler treats weights as constants, and stores them as it needs them.
        options: dict = {"freezing": True}
        self.compute = torch.compile(self.network, options=options) if compiled else self.network
        self.train(False)

    def train(self, mode: bool = True) -> "ForInference":
        return super().train(False)  # always in eval mode

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        outputs = self.compute(images.to(self.dtype, memory_format=torch.channels_last))
        if not isinstance(outputs, Tensor):
            raise TypeError(f"the network must return one tensor, not a {type(outputs).__name__}")
        return outputs.float()


def for_inference(
    model: nn.Module, dtype: torch.dtype = torch.float32, compiled: bool = False
) -> ForInference:
    """A faster copy of a network: batch norms folded, channels_last, weights of `dtype`.

    `dtype`: bfloat16 pays only on hardware that computes in it, and changes many answers of a deep
    plain network (docs/speed.md). `compiled`: by torch.compile, which takes up to a minute at the
    first batch of each shape, and needs a C++ compiler; without one, this is ignored, see
    has_compiler(). Raises TypeError for anything but a network and a type of numbers.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"give a network: of what load_model returns, .model; not {model!r:.60}")
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype is torch.float32 or torch.bfloat16, not {dtype!r:.60}")
    return ForInference(model, dtype, compiled and has_compiler())


def has_compiler() -> bool:
    """Whether there is a C++ compiler for torch.compile."""
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
