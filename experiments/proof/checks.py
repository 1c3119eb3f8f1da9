"""Checks that two networks are equal.

The bug gallery runs all of CHECKS; verify and pytest use their comparison of blocks. A check takes
two functions that build a network, ours and theirs, and returns the difference as text, or "".
Values are compared bit for bit. Oracles that sum in another order are compared in fp64: in fp32,
rounding would hide an eps of 1e-12 instead of 1e-6 in ViT's last norm. Weights are shaken first: in
a fresh network every norm has weight 1, bias 0, mean 0 and variance 1, so a missing or exchanged
norm would not show.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.proof.oracles import Oracle, logits_of
from zoo.weights.identify import side_of_image

Make = Callable[[], nn.Module]


def shake(model: nn.Module, seed: int = 0) -> None:
    """Perturb every parameter and buffer, in place, so that none has its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("num_batches_tracked"):
                value += 7
            elif value.dim() == 1:
                value += 0.2 * torch.rand(value.shape, generator=generator).to(value)
            else:
                scale = max(0.1 * value.std().item(), 1e-3) if value.numel() > 1 else 0.1
                value += scale * torch.randn(value.shape, generator=generator).to(value)


class Difference(NamedTuple):
    """The largest absolute difference between tensors, and whether it counts as equal."""

    largest: float = 0.0
    equal: bool = True

    def __str__(self) -> str:
        return "0" if self == Difference() else f"{self.largest:.1e}"

    @property
    def verdict(self) -> str:
        """One word: "equal" (0), "rounding" (within the tolerance) or "DIFFERENT"."""
        return "DIFFERENT" if not self.equal else "rounding" if self.largest else "equal"


def difference(ours: Tensor | None, theirs: Tensor | None, rounding: int = 0) -> Difference:
    """Compare bit for bit, or with the tolerance `rounding`, as in Oracle.

    A missing tensor, another shape or dtype, and NaN are infinitely different.
    """
    if ours is None or theirs is None or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Difference(float("inf"), False)
    largest = (ours.double() - theirs.double()).abs().max().item()
    if largest != largest:
        return Difference(float("inf"), False)
    eps = torch.finfo(theirs.dtype).eps if rounding else 0.0
    allowed = rounding * eps * theirs.abs().max().item()
    return Difference(largest, torch.equal(ours, theirs) or largest <= allowed < float("inf"))


def worst(parts: Iterable[Difference]) -> Difference:
    """The largest of all differences; equal if all parts are equal."""
    differences = [Difference(), *parts]
    return Difference(max(d.largest for d in differences), all(d.equal for d in differences))


class Block(NamedTuple):
    """A block of both networks, and the differences in what it computed."""

    ours: str
    theirs: str
    shape: tuple[int, ...]  # of the output
    evaluation: Difference  # of the output in eval mode
    training: Difference  # of the output in train mode
    gradients: Difference  # of the loss with respect to the output and every parameter
    buffers: Difference  # after the pass in train mode

    @property
    def parts(self) -> tuple[Difference, ...]:
        """All differences, in the order of the dicts that trace() returns."""
        return self.evaluation, self.training, self.gradients, self.buffers

    @property
    def overall(self) -> Difference:
        """The largest of the differences."""
        return worst(self.parts)


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that collects, by name, the output of every module that returns a tensor."""
    outputs: dict[str, Tensor] = {}

    def collect(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[name] = output

    hooks = [m.register_forward_hook(partial(collect, name)) for name, m in model.named_modules()]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def trace(model: nn.Module, blocks: Iterable[str], images: Tensor) -> list[dict[str, Tensor]]:
    """Run a pass in eval mode, then a forward and backward pass in train mode.

    Returns a dict for each of Block.parts: tensors by the name of the block, parameter or buffer.
    """
    # Not under no_grad, where torchvision's ViT takes a fused path that rounds differently.
    with outputs_of(model) as outputs:
        model.eval()(images)
    evaluation = {name: outputs[name].detach() for name in blocks if name in outputs}
    model.zero_grad()
    with outputs_of(model) as outputs:
        logits = logits_of(model.train()(images))
    training = {name: outputs[name] for name in blocks if name in outputs}
    for output in training.values():
        if output.requires_grad:
            output.retain_grad()
    cross_entropy(logits, torch.tensor([3, 999]) % logits.shape[1]).backward()
    sources = [*training.items(), *model.named_parameters()]
    gradients = {name: value.grad for name, value in sources if value.grad is not None}
    return [evaluation, training, gradients, dict(model.named_buffers())]


def compare_blocks(
    ours: nn.Module, theirs: nn.Module, oracle: Oracle, dtype: torch.dtype | None = None
) -> list[Block]:
    """Compare two networks with the same weights block by block; in fp64 if rounding is allowed."""
    dtype = dtype or (torch.float64 if oracle.rounding else torch.float32)
    side = sides_of(theirs, oracle)[0]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator).to(dtype)
    names = oracle.blocks_of(theirs)
    our_parts = trace(ours.to(dtype), names, images)
    their_parts = [
        to_our_names(part, oracle) for part in trace(theirs.to(dtype), names.values(), images)
    ]
    blocks = []
    for our_name, their_name in names.items():
        pairs = zip(our_parts, their_parts, strict=True)
        parts = [block_difference(our_name, a, b, oracle.rounding) for a, b in pairs]
        shape = tuple(their_parts[1][our_name].shape)
        blocks.append(Block(our_name, their_name, shape, *parts))
    return blocks


def block_difference(
    block: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rounding: int
) -> Difference:
    """The largest difference among the tensors of a block: its output, and those inside it."""
    names = {name for name in {*ours, *theirs} if f"{name}.".startswith(f"{block}.")}
    return worst(difference(ours.get(name), theirs.get(name), rounding) for name in names)


def sides_of(theirs: nn.Module, oracle: Oracle) -> tuple[int, ...]:
    """Sides of the images to compare with, in pixels: a ViT's image size; a ResNet's 64 and 224."""
    entries = to_our_names(theirs.state_dict(), oracle)
    size = side_of_image({name: tuple(value.shape) for name, value in entries.items()})
    return (size,) if size else (64, 224)


def to_our_names(entries: Mapping[str, Tensor], oracle: Oracle) -> dict[str, Tensor]:
    """Their entries under our names; separate q, k and v are concatenated."""
    named = {oracle.in_zoo(name): value for name, value in entries.items()}
    for name in [name for name in named if ".attention.q." in name]:
        parts = [named.pop(name.replace(".q.", f".{letter}.")) for letter in "qkv"]
        named[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    return named


# --- the checks ---


def output_shape(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """The logits have the right shape. Many test suites check only this."""
    models = [make().eval() for make in (ours, theirs)]
    side = sides_of(models[1], oracle)[0]
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        a, b = (tuple(logits_of(model(images)).shape) for model in models)
    return "" if a == b else f"logits {a}, not {b}"


def parameter_count(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """The number of parameters is the same."""
    with torch.device("meta"):
        a, b = (sum(p.numel() for p in make().parameters()) for make in (ours, theirs))
    return "" if a == b else f"{a:,} parameters, not {b:,}"


def stage_shapes(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """Every block's output has the right shape; in ResNets, for small and for large images."""
    with torch.device("meta"):
        a, b = ours(), theirs()
    names = oracle.blocks_of(b)
    for side in sides_of(b, oracle):
        ours_at, theirs_at = output_shapes(a, side), output_shapes(b, side)
        for our_name, their_name in names.items():
            actual, expected = ours_at.get(our_name), theirs_at[their_name]
            if actual != expected:
                return f"{our_name} {actual}, not {expected}"
    return ""


def output_shapes(model: nn.Module, side: int) -> dict[str, tuple[int, ...]]:
    """Output shape of every module, by name, for one image; `model` is on the meta device."""
    with outputs_of(model) as outputs, torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return {name: tuple(output.shape) for name, output in outputs.items()}


def strict_load(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """The state dicts have the same entries, with the same shapes."""
    try:
        with_their_weights(ours, theirs, oracle)
    except RuntimeError as error:
        return str(error).splitlines()[1].strip()
    return ""


def with_their_weights(ours: Make, theirs: Make, oracle: Oracle) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs with the same, shaken weights; RuntimeError if the weights do not fit."""
    a, b = ours(), theirs()
    shake(b)
    a.load_state_dict(to_our_names(b.state_dict(), oracle), strict=True)
    return a, b


def eval_parity(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """With the same weights, every block has the same output in eval mode."""
    for block in compare_blocks(*with_their_weights(ours, theirs, oracle), oracle):
        if not block.evaluation.equal:
            return f"{block.ours} off by {block.evaluation.largest:.1e}"
    return ""


def train_parity(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """A training pass and its backward pass give the same outputs, gradients and buffers."""
    for block in compare_blocks(*with_their_weights(ours, theirs, oracle), oracle):
        for part in ("training", "gradients", "buffers"):
            if not getattr(block, part).equal:
                return f"{block.ours}, {part} off by {getattr(block, part).largest:.1e}"
    return ""


def seeded_init(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """With the same seed, the initial weights are the same."""
    a, b = seeded_entries(ours), to_our_names(seeded_entries(theirs), oracle)
    if a.keys() != b.keys():
        return "the entries have different names"
    different = [name for name in a if not torch.equal(a[name], b[name])]
    return f"{different[0]} and {len(different) - 1} others differ" if different else ""


def seeded_entries(make: Make) -> dict[str, Tensor]:
    """The initial state dict, with seed 1."""
    torch.manual_seed(1)
    return make().state_dict()


Check = Callable[[Make, Make, Oracle], str]
CHECKS: dict[str, Check] = {
    "shape": output_shape, "count": parameter_count, "stages": stage_shapes, "load": strict_load,
    "eval": eval_parity, "train": train_parity, "init": seeded_init,
}  # fmt: skip
NEEDS_WEIGHTS = ("eval", "train")  # checks that cannot run if the strict load fails
