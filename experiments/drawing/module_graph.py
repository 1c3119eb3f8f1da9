"""Draw a module from the calls in its forward(): a chain of boxes, with the skips beside it.

torch.fx records the calls, and a run gives their shapes. So the drawing cannot differ from the
code: a block without an addition is drawn without a skip.
"""

import html
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp


class Step(NamedTuple):
    """One call in forward(). The first step is the input of forward(), the last one its output."""

    name: str  # of the module, function or method
    label: str  # what the drawing says
    inputs: tuple[int, ...]  # the steps whose outputs it takes, by their places in the list
    shape: tuple[int, ...]  # of the output


class OneLevel(fx.Tracer):
    """Records the calls of one forward(), and none of those inside the modules that it calls."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return not isinstance(module, nn.Sequential)


def steps_of(module: nn.Module, shape: tuple[int, ...]) -> list[Step]:
    """The calls of module.forward(x) for an x of this shape, in order.

    Selecting one of several tensors, as in `q, k, v = ...`, is not a step. A call that returns no
    tensor is not one, either. Sets `module` to eval mode.
    """
    traced = fx.GraphModule(module.eval(), OneLevel().trace(module))
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(shape))
    steps: list[Step] = []
    places: dict[fx.Node, list[int]] = {}  # node -> its step, or those of its inputs
    for node in traced.graph.nodes:
        inputs = sorted({place for source in node.all_input_nodes for place in places[source]})
        output = getattr(node.meta.get("tensor_meta"), "shape", None)
        picks = getattr(node.target, "__name__", "") == "getitem" and isinstance(node.args[1], int)
        places[node] = inputs if output is None or picks else [len(steps)]
        if output is not None and not picks:
            steps.append(Step(*name_and_label(node, module), tuple(inputs), tuple(output)))
    return steps


def name_and_label(node: fx.Node, module: nn.Module) -> tuple[str, str]:
    """What a step is called in the code, and in the drawing."""
    name = "y" if node.op == "output" else getattr(node.target, "__name__", str(node.target))
    if name in ("add", "iadd"):
        name = "+"
    elif name == "getitem":  # as in the code: slice(None, None, 2) is ::2
        name = re.sub(r"slice\(None, None, (\w+)\)", r"::\1", f"[{str(node.args[1])[1:-1]}]")
        name = name.replace("::None", ":")
    called = module.get_submodule(name) if node.op == "call_module" else None
    label = type(called).__name__ if called else name
    if isinstance(called, nn.Conv2d):
        side, stride = called.kernel_size[0], called.stride[0]
        label = f"conv {side}x{side}, {called.in_channels} → {called.out_channels}"
        label += f", stride {stride}" * (stride > 1)
    return name, label


def main_chain(steps: Sequence[Step]) -> list[int]:
    """The places of the steps on the longest path from the input to the output."""
    ways: list[list[int]] = []
    for place, step in enumerate(steps):
        ways.append([*max((ways[i] for i in step.inputs), key=len, default=[]), place])
    return ways[-1]


def beside(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """The connections (from, to) that are not between neighbours in the chain."""
    straight = set(pairwise(main_chain(steps)))
    return [(i, j) for j, step in enumerate(steps) for i in step.inputs if (i, j) not in straight]


# In pixels. The chain is centred at CHAIN, steps beside it at SIDE.
CHAIN, SIDE, BOX, SIDE_BOX, HEIGHT, PITCH, BEND = 125, 280, 190, 96, 26, 46, 14


def svg(steps: Sequence[Step], title: str) -> str:
    """An SVG. The page defines its colours, and the arrow at the end of a line."""
    chain, skips = main_chain(steps), beside(steps)
    y = {place: row * PITCH + PITCH // 2 for row, place in enumerate(chain)}
    for place, step in enumerate(steps):  # a step beside the chain is two rows below its input
        y.setdefault(place, y[(*step.inputs, 0)[0]] + 2 * PITCH)
    parts = [f'<path class="flow" d="M{CHAIN},{y[i]} V{y[j] - HEIGHT // 2 - 2}"/>'
             for i, j in pairwise(chain)]  # fmt: skip
    for i, j in skips:
        start, end = f"M{SIDE},{y[i]}", f"V{y[j] - HEIGHT // 2 - 2}"
        if i in chain:  # the skip branches off the line below its source
            start = f"M{CHAIN},{y[i] + PITCH // 2} H{SIDE - BEND} q{BEND},0 {BEND},{BEND}"
        if j in chain:
            edge = CHAIN + (HEIGHT if steps[j].label == "+" else BOX) // 2 + 2
            end = f"V{y[j] - BEND} q0,{BEND} -{BEND},{BEND} H{edge}"
        parts.append(f'<path class="flow skip" d="{start} {end}"/>')
    for place, step in enumerate(steps):
        parts.append(box(step, CHAIN if place in chain else SIDE, y[place], place + 1 < len(steps)))
    in_words = "; ".join([title, *(f"{steps[i].label} → {steps[j].label}" for i, j in skips)])
    size = f'width="330" height="{len(chain) * PITCH}" viewBox="0 0 330 {len(chain) * PITCH}"'
    label = f'role="img" aria-label="{html.escape(in_words)}"'
    return f'<svg class="drawing" {size} {label}>{"".join(parts)}</svg>'


def box(step: Step, x: int, y: int, inner: bool) -> str:
    """A box with a step's label around (x, y); the input, the output and + are round."""
    kind = "add" if step.label == "+" else "box" if step.inputs and inner else "end"
    width = {"add": HEIGHT, "end": 64, "box": BOX if x == CHAIN else SIDE_BOX}[kind]
    at = f'x="{x - width // 2}" y="{y - HEIGHT // 2}" width="{width}" height="{HEIGHT}"'
    text = f'<text x="{x}" y="{y + 5}">{html.escape(step.label)}</text>'
    return f'<g class="{kind}"><rect {at} rx="{4 if kind == "box" else HEIGHT // 2}"/>{text}</g>'
