"""The linear probe: compute the features once, then fit a logistic regression to them.

A frozen network computes the same features of an image in every epoch, so a training loop of 25
epochs computes them 24 times too often. Fitting the head is a convex problem with one solution.
Dimension key: N images, C features, K classes.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from experiments.plumbing.cli import NumericError
from experiments.plumbing.precision import to_layout
from experiments.train.loop import Settings, infer
from zoo.networks import Network

NEVER = -1e4  # the bias of a class without images
STEPS = 500  # of L-BFGS, at most; it stops earlier once the gradient vanishes


def features_of(
    model: Network, batches: Iterable[tuple[Tensor, Tensor]], settings: Settings
) -> tuple[Tensor, Tensor]:
    """Features float32 (N, C), computed in eval mode, and labels (N,); returned on the CPU.

    Batch norms are not folded: ejected code (experiments.eject) ends with the same bits.
    """
    return infer(to_layout(model, settings).eval().features, batches, settings)


def logistic_regression(
    features: Tensor, labels: Tensor, classes: int, l2: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weight (K, C) and bias (K,) that minimise mean cross-entropy + l2 / 2 * |weight|^2.

    The penalty is on the weights of standardised features, so that it does not depend on their
    scales; the returned weight is for the original features. Computed in float64 by L-BFGS from
    zero: no seed, one solution. `weights` (K,): factors of the losses, one per class. A class
    without images is never predicted. Raises NumericError for features that are not finite.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, so only here
    from sklearn.preprocessing import StandardScaler

    if not features.isfinite().all():
        what, fix = "features are not finite", "choose other --weights, or --precision fp32"
        raise NumericError(what, "the linear probe", fix)
    present = labels.unique()
    of_all, biases = torch.zeros(classes, features.shape[1]), torch.full((classes,), NEVER)
    if len(present) == 1:  # nothing to fit: always this class
        biases[present] = 0.0
        return of_all, biases
    scaler = StandardScaler().fit(features.double().numpy())
    x, y = scaler.transform(features.double().numpy()), labels.numpy()
    mass = None if weights is None else weights.double().numpy()[y]
    total = len(y) if mass is None else mass.sum()
    # scikit-learn sums the losses; for two classes it penalises the difference of their weights.
    inverse = (2 if len(present) == 2 else 1) / (max(l2, 1e-12) * total)
    model = LogisticRegression(C=inverse, tol=1e-7, max_iter=STEPS).fit(x, y, mass)
    weight, bias = torch.from_numpy(model.coef_ / scaler.scale_), torch.from_numpy(model.intercept_)
    if len(present) == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    bias = bias - weight @ torch.from_numpy(scaler.mean_)
    of_all[present], biases[present] = weight.float(), bias.float()
    return of_all, biases
