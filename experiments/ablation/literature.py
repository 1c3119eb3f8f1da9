"""Published test errors (%) for the paper's protocol; tables show them if ours is the same.

He et al. 2015 (arXiv 1512.03385), table 6. The paper gives no numbers for plain-20 to plain-56
(only figure 6), and for plain-110 only that its error is above 60 %.
Replications of section 4.2: github.com/akamaster/pytorch_resnet_cifar10,
github.com/gcr/torch-residual-networks, github.com/a-martyn/resnet, github.com/ltzhenry's rerun,
and Li et al. 2018 (arXiv 1712.09913), table 2.
"""

# Section 4.2: everything that options can change, except precision.
PROTOCOL = {
    "source": "cifar10", "size": 32, "steps": 64_000, "batch_size": 128, "schedule": "step",
    "lr": 0.1, "normalize": "pixel-mean", "train_images": 50_000, "augment": True, "holdout": False,
}  # fmt: skip

PUBLISHED = {  # the paper's error, those of replications
    "resnet20": ("8.75", "8.27 / 8.29 / 8.0"),
    "resnet32": ("7.51", "7.37 / 7.63 / 7.51"),
    "resnet44": ("7.17", "6.90 / 7.14 / 7.38"),
    "resnet56": ("6.97", "6.61 / 6.94 / 7.33"),
    "resnet110": ("6.61 ± 0.16 (std, n = 5)", "6.32 / 6.73"),
    "plain20": ("-", "9.5 / 8.65 / 8.18"),
    "plain32": ("-", "9.92 / 9.38"),
    "plain44": ("-", "11.35"),
    "plain56": ("-", "12.76 / 11.83 / 13.31"),
    "plain110": ("> 60", "77.5 / 16.44"),
}
