"""The figures of an ablation: every depth is drawn, and the caption has the right n."""

import pytest
from figures import readable, words

from experiments.ablation.figures import draw_all_curves
from experiments.ablation.runs import Run
from experiments.drawing.style import COLOURS

DEPTHS = (8, 14, 20, 26, 32, 38)


def curves(folder, losses):
    """The figure of runs whose training losses these are, by (network, depth, seed)."""
    runs = []
    for (network, depth, seed), values in losses.items():
        runs.append(Run(network=network, depth=depth, seed=seed))
        lines = [f"{epoch},{loss},0.5,0.5" for epoch, loss in enumerate(values, 1)]
        (folder / runs[-1].name).mkdir()
        text = "\n".join(["epoch,train_loss,train_error,test_error", *lines])
        (folder / runs[-1].name / "history.csv").write_text(text + "\n", encoding="utf-8")
    return readable(draw_all_curves, runs, [], folder)


def test_six_depths_are_six_curves_of_different_colours(tmp_path):
    arms = [(network, depth, 0) for network in ("plain", "resnet") for depth in DEPTHS]
    figure = curves(tmp_path, {arm: [1.0, 0.5] for arm in arms})
    for panel in figure.axes[:2]:
        drawn = [line.get_color() for line in panel.lines if len(line.get_xdata())]
        assert drawn == list(COLOURS[:6])
    assert {f"{depth} layers" for depth in DEPTHS} <= set(words(figure))


@pytest.mark.parametrize(("others", "n"), [([2.0, 1.0], "n = 2;"), ([], "n = 1 to 2;")])
def test_seeds_that_diverged_are_not_counted(tmp_path, others, n):
    """A plain network without any epoch still has its label, for the residual one's colour."""
    losses = {("plain", 8, 0): [2.0, 1.0], ("plain", 8, 1): others,
              ("resnet", 8, 0): [2.0, 1.0], ("resnet", 8, 1): [2.0, 1.0]}  # fmt: skip
    said = words(curves(tmp_path, losses))
    assert any(n in text for text in said), said
    assert "8 layers" in said
