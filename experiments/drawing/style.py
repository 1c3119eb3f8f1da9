"""How every figure looks."""

from typing import Any

# Okabe and Ito's colours, told apart by colour-blind people too.
COLOURS = ("#E69F00", "#0072B2", "#000000", "#009E73", "#CC79A7")
STYLE: dict[Any, Any] = {"font.size": 12, "axes.grid": True, "grid.alpha": 0.3, "savefig.dpi": 110,
         "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
