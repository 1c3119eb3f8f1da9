"""What makes a network another one's equal.

The bug gallery runs all of CHECKS; verify and pytest share their comparison of blocks. Each check
takes two functions that build a network, ours and theirs, and says what is different, or "".
Everything is compared to the last bit, but with oracles that sum in another order: with
those in fp64, since in fp32 an eps of 1e-12 for 1e-6 in ViT's last norm hides in the rounding.
Weights are shaken first: in a fresh network every norm is 1, 0, 0, 1, and a forgotten or exchanged
one would not show.
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
    """Move every parameter and buffer away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("num_batches_tracked"):
                value += 7
            elif value.dim() == 1:
                value += 0.2 * torch.rand(value.shape, generator=generator).to(value)
            else:
                scale = max(0.1 * value.std().item(), 1e-3)
                value += scale * torch.randn(value.shape, generator=generator).to(value)


class Difference(NamedTuple):
    """The largest difference between two tensors or more, and whether it counts as none."""

    largest: float = 0.0
    equal: bool = True

    def __str__(self) -> str:
        return "0" if self == Difference() else f"{self.largest:.1e}"

    @property
    def verdict(self) -> str:
        return "DIFFERENT" if not self.equal else "rounding" if self.largest else "equal"


def difference(ours: Tensor | None, theirs: Tensor | None, rounding: int = 0) -> Difference:
    """A missing tensor, another shape and a NaN are infinitely different; `rounding`: Oracle's."""
    if ours is None or theirs is None or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Difference(float("inf"), False)
    largest = (ours.double() - theirs.double()).abs().max().item()
    if largest != largest:
        return Difference(float("inf"), False)
    eps = torch.finfo(theirs.dtype).eps if rounding else 0.0
    allowed = rounding * eps * theirs.abs().max().item()
    return Difference(largest, torch.equal(ours, theirs) or largest <= allowed < float("inf"))


def worst(parts: Iterable[Difference]) -> Difference:
    """The largest of all; equal if every one is."""
    found = [Difference(), *parts]
    return Difference(max(part.largest for part in found), all(part.equal for part in found))


class Block(NamedTuple):
    """One block in both networks: what it computed, and how far apart that is."""

    ours: str
    theirs: str
    shape: tuple[int, ...]  # of the output
    evaluation: Difference  # of the output in eval mode
    training: Difference  # of the output in train mode
    gradients: Difference  # of the loss, by the output and by every parameter
    buffers: Difference  # after the pass in train mode

    @property
    def parts(self) -> tuple[Difference, ...]:
        return self.evaluation, self.training, self.gradients, self.buffers

    @property
    def overall(self) -> Difference:
        return worst(self.parts)


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects the output of every module that returns a tensor, by name."""
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
    """What one pass in eval mode, one in train mode and back compute, for each of Block.parts.

    Tensors by the name of the block, parameter or buffer.
    """
    # Not under no_grad: torchvision's ViT would take a fused path with other roundings.
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
    """Block by block, two networks that have the same weights; in fp64 if rounding is allowed."""
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
    """The worst difference among a block's output and the tensors inside of it."""
    names = {name for name in {*ours, *theirs} if f"{name}.".startswith(f"{block}.")}
    return worst(difference(ours.get(name), theirs.get(name), rounding) for name in names)


def sides_of(theirs: nn.Module, oracle: Oracle) -> tuple[int, ...]:
    """Pixels a side of the images to compare with: a ViT's own, or small ones and large ones."""
    entries = to_our_names(theirs.state_dict(), oracle)
    size = side_of_image({name: tuple(value.shape) for name, value in entries.items()})
    return (size,) if size else (64, 224)


def to_our_names(entries: Mapping[str, Tensor], oracle: Oracle) -> dict[str, Tensor]:
    """Their entries as we spell and divide them: q, k and v are one."""
    named = {oracle.in_zoo(name): value for name, value in entries.items()}
    for name in [name for name in named if ".attention.q." in name]:
        parts = [named.pop(name.replace(".q.", f".{letter}.")) for letter in "qkv"]
        named[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    return named


# --- the checks ---


def output_shape(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """The logits have the right shape, which is all that many a test asks."""
    models = [make().eval() for make in (ours, theirs)]
    side = sides_of(models[1], oracle)[0]
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        a, b = (tuple(logits_of(model(images)).shape) for model in models)
    return "" if a == b else f"logits {a}, not {b}"


def parameter_count(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """There are as many parameters."""
    with torch.device("meta"):
        a, b = (sum(p.numel() for p in make().parameters()) for make in (ours, theirs))
    return "" if a == b else f"{a:,} parameters, not {b:,}"


def stage_shapes(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """Every block's output has the right shape, a ResNet's for small and for large images."""
    with torch.device("meta"):
        a, b = ours(), theirs()
    names = oracle.blocks_of(b)
    for side in sides_of(b, oracle):
        ours_at, theirs_at = output_shapes(a, side), output_shapes(b, side)
        for our_name, their_name in names.items():
            found, wanted = ours_at.get(our_name), theirs_at[their_name]
            if found != wanted:
                return f"{our_name} {found}, not {wanted}"
    return ""


def output_shapes(model: nn.Module, side: int) -> dict[str, tuple[int, ...]]:
    """Every module's output shape, by name, for one image; nothing is computed."""
    with outputs_of(model) as outputs, torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return {name: tuple(output.shape) for name, output in outputs.items()}


def strict_load(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """Every entry of their state dict has its place in ours, and the reverse."""
    try:
        with_their_weights(ours, theirs, oracle)
    except RuntimeError as error:
        return str(error).splitlines()[1].strip()
    return ""


def with_their_weights(ours: Make, theirs: Make, oracle: Oracle) -> tuple[nn.Module, nn.Module]:
    """Their network, shaken, and ours with the same weights; RuntimeError if they do not fit."""
    a, b = ours(), theirs()
    shake(b)
    a.load_state_dict(to_our_names(b.state_dict(), oracle), strict=True)
    return a, b


def eval_parity(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """The same weights give the same activations in every block."""
    for block in compare_blocks(*with_their_weights(ours, theirs, oracle), oracle):
        if not block.evaluation.equal:
            return f"{block.ours} off by {block.evaluation.largest:.1e}"
    return ""


def train_parity(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """One pass in train mode and back gives the same activations, gradients and buffers."""
    for block in compare_blocks(*with_their_weights(ours, theirs, oracle), oracle):
        for part in ("training", "gradients", "buffers"):
            if not getattr(block, part).equal:
                return f"{block.ours}, {part} off by {getattr(block, part).largest:.1e}"
    return ""


def seeded_init(ours: Make, theirs: Make, oracle: Oracle) -> str:
    """Seeded alike, training starts from the same weights."""
    a, b = seeded_entries(ours), to_our_names(seeded_entries(theirs), oracle)
    if a.keys() != b.keys():
        return "other entries"
    different = [name for name in a if not torch.equal(a[name], b[name])]
    return f"{different[0]} and {len(different) - 1} others differ" if different else ""


def seeded_entries(make: Make) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return make().state_dict()


Check = Callable[[Make, Make, Oracle], str]
CHECKS: dict[str, Check] = {
    "shape": output_shape,
    "count": parameter_count,
    "stages": stage_shapes,
    "load": strict_load,
    "eval": eval_parity,
    "train": train_parity,
    "init": seeded_init,
}
NEEDS_WEIGHTS = ("eval", "train")  # cannot run where the strict load fails
