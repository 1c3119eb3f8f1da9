"""Ablations called from Python: from a notebook, and from a script with settings of its own."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from PIL import Image
from sample_images import noise

from experiments.ablation.campaign import ablate

SCRIPT = """
import torch

{settings}

from experiments.ablation.campaign import ablate

if __name__ == "__main__":
    ablate("quick", depths=(8,), seeds=1, epochs=1, train_images=200, jobs=1,
           precision="bf16", device="cpu", output_dir="{folder}")
"""


def images_of_two_classes(folder: Path, count: int) -> Path:
    for number in range(2 * count):
        path = folder / ("train", "test")[number % 4 == 3] / f"c{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number, 16, 16)).save(path)
    return folder


SETTINGS = """
torch.set_default_dtype(torch.bfloat16)
torch.set_grad_enabled(False)
torch.set_default_device("meta")
torch.backends.mkldnn.enabled = False
"""


def test_settings_of_a_script_do_not_reach_the_workers_that_import_it(tmp_path):
    found = []
    for name, lines in (("plain", ""), ("set", SETTINGS)):
        script = tmp_path / f"{name}.py"
        script.write_text(SCRIPT.format(settings=lines, folder=tmp_path / name))
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, str(script)], env=env, check=True, capture_output=True)
        found.append([p.read_bytes() for p in sorted((tmp_path / name).glob("*/*.safetensors"))])
    assert found[0] == found[1]
    assert len(found[0]) == 4  # plain, residual; first, last


def test_images_that_changed_since_the_last_call_are_read_again(tmp_path):
    options = {"depths": (8,), "seeds": 1, "epochs": 1, "batch_size": 8, "jobs": 1, "size": 16,
               "precision": "fp32", "device": "cpu", "data_dir": tmp_path / "images"}  # fmt: skip
    images_of_two_classes(tmp_path / "images", 20)
    few = ablate("quick", output_dir=tmp_path / "a", **options)
    images_of_two_classes(tmp_path / "images", 40)
    more = ablate("quick", output_dir=tmp_path / "b", **options)
    assert more.rows[0]["steps"] > few.rows[0]["steps"]
