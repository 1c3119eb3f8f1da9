"""Check this machine: what it has, how to fix problems, and how long the commands will take.

    python -m experiments.doctor

Exit code 0: all is well, or the fixes are advice. Exit code 1: there is a GPU, and it is not used.
"""

import codecs
import locale
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing

if TYPE_CHECKING:
    import torch

    from experiments.plumbing.forecast import Forecast

Row = tuple[str, str, str]  # what was checked, what was found, how to fix it ("": no problem)

MOUNTS = Path("/proc/mounts")
SLOW = {"9p", "drvfs", "cifs", "smb3", "nfs", "nfs4", "vboxsf", "fuse.sshfs", "fuse.drive"}
DRIVERS = {"12": 525, "13": 580}  # CUDA's major version -> the oldest driver that runs it
HANGUL = 0xD55C  # the letter "han"
LAST_START = 18.0  # seconds after which no further target is timed
PATIENCE = 3.0  # seconds for a target; then each remaining network gets only one step
FEW = 64  # most images in a timed step on a CPU, which computes image by image
CIFAR10_IMAGES, SYNTHETIC_IMAGES = (50_000, 10_000), (4000, 1000)  # training and test
ANTS_AND_BEES = {"train": 245, "val": 153}


@dataclass(frozen=True)
class Options:
    """Check this machine, and forecast how long the commands will take on it."""


def main(options: Options) -> int:
    """Print the table; return 1 if there is a GPU that is not used, else 0."""
    begin = time.perf_counter()
    with doing("looking at this machine, and timing steps: up to 30 s"):
        import torch

        from experiments.plumbing.tables import Rows, print_report

        driver, names = nvidia_smi()
        device, gpu = of_gpu(driver, names)
        builds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
        build = " and ".join(f"{name} {number}" for name, number in builds.items() if number)
        rows = [
            ("Python", f"{platform.python_version()}, {sys.executable}", ""),
            ("torch", f"{torch.__version__}, for {build or 'CPUs'}", ""),
            ("NVIDIA driver", f"{driver or 'none'}{names and f', for {names}'}", ""),
            gpu, of_precision(device), of_cores(), of_encoding(), of_font(),
            of_mount(), of_disk(),
            *forecasts(device, begin + LAST_START),
        ]  # fmt: skip
    print_report([Rows(("what", "found"), [row[:2] for row in rows], ("---",))])
    fixes = [f"{what}: {fix}" for what, _, fix in rows if fix]  # not in the table: to be copied
    print("to fix:" if fixes else "nothing to fix", *fixes, sep="\n  ")
    return int(device.type == "cpu" and bool(names or torch.cuda.is_available()))


def nvidia_smi() -> tuple[str, str]:
    """The version of NVIDIA's driver, and the names of its GPUs; "" for each that is not found."""
    places = os.environ.get("PATH", "") + os.pathsep + "/usr/lib/wsl/lib"
    program = shutil.which("nvidia-smi", path=places)
    if program is None:
        return "", ""
    query = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, timeout=5, check=True, encoding="utf-8", errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return "nvidia-smi fails", ""
    lines = [line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line]
    return (lines[0][0], ", ".join(name for _, name in lines)) if lines else ("", "")


def of_gpu(driver: str, names: str) -> tuple["torch.device", Row]:
    """The device that commands choose, and a row: why CUDA is used or not, and the fix."""
    import torch

    from experiments.plumbing.device import choose_device

    device, why = choose_device("auto")
    if device.type == "cuda":
        try:
            choose_device("cuda")
        except UsageError as error:  # for example, the GPU is too old for this build
            return torch.device("cpu"), ("device", str(error).split("\n")[0], install("cu126"))
        free, total = (number / 1e9 for number in torch.cuda.mem_get_info())
        fix = "end programs that use the GPU: nvidia-smi lists them" * (free < 2)
        return device, ("device", f"{why}; {free:.1f} of {total:.1f} GB free", fix)
    if not names:
        colab = "choose Runtime > Change runtime type > T4 GPU"
        return device, ("device", why, colab if "COLAB_RELEASE_TAG" in os.environ else "")
    cuda, hidden = torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES")
    oldest = DRIVERS.get((cuda or "").split(".")[0], 0)
    if not cuda:
        why, fix = "this torch is built without CUDA", install("auto")
    elif int((re.match(r"\d+", driver) or [oldest])[0]) < oldest:
        why = f"driver {driver} is too old for CUDA {cuda}, which needs {oldest}"
        fix = install("auto")
    elif hidden in ("", "-1"):
        why, fix = f"CUDA_VISIBLE_DEVICES={hidden} hides the GPU", "unset CUDA_VISIBLE_DEVICES"
    else:
        fix = "restart the machine; for a container: docker run --gpus all"
    return device, ("device", f"CPU, although there is a GPU: {why}", fix)


def install(backend: str) -> str:
    """The command that installs another build of torch."""
    if (Path(sys.prefix) / ".made").exists():
        return f"make setup TORCH={backend}"
    again = "--reinstall-package torch --reinstall-package torchvision torch torchvision"
    python = shlex.quote(sys.executable)
    return f"pip install uv && uv pip install --python {python} --torch-backend {backend} {again}"


def of_precision(device: "torch.device") -> Row:
    """The 16-bit precisions in which the hardware computes."""
    import torch

    from experiments.plumbing.device import has_bf16

    kinds = ["fp16"] * (device.type == "cuda") + ["bf16"] * has_bf16(device)
    if device.type == "cuda":
        source = "compute capability {}.{}".format(*torch.cuda.get_device_capability())
    else:
        find_out = getattr(torch.cpu, "get_capabilities", dict[str, bool])  # not in old versions
        flags = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16")
        source = ", ".join(flag for flag in flags if find_out().get(flag)) or platform.machine()
    return "16-bit", f"{' and '.join(kinds) or 'none, so fp32'} ({source})", ""


def of_cores() -> Row:
    """The number of cores, of usable cores, and of torch's threads."""
    import torch

    from data.processes import usable_cores

    usable, threads, fix = usable_cores(), torch.get_num_threads(), ""
    found = f"{os.cpu_count()}, usable: {usable}, threads of torch: {threads}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    if "OMP_NUM_THREADS" in os.environ and threads < usable:
        found += f", since OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
        fix = "unset OMP_NUM_THREADS"
    elif threads > usable:
        fix = f"export OMP_NUM_THREADS={usable}; for an ablation, --jobs {usable}"
    elif load > usable / 2:
        found += f"; load {load:.1f}, so commands take longer"
        fix = "end other programs"
    return "cores", found, fix


def of_encoding() -> Row:
    """The encodings of files, file names and output."""
    printed = getattr(sys.stdout, "encoding", "utf-8")  # no stdout: nothing is printed
    names = locale.getpreferredencoding(False), sys.getfilesystemencoding(), printed
    found = sorted({codecs.lookup(name).name for name in names})
    fix = "setx PYTHONUTF8 1, and a new terminal" if os.name == "nt" else "export PYTHONUTF8=1"
    if "PYTHONIOENCODING" in os.environ:
        fix = "unset PYTHONIOENCODING"
    return "encoding", ", ".join(found), fix if found != ["utf-8"] else ""


def of_font() -> Row:
    """Whether figures can show Hangul."""
    from experiments.drawing.style import drawable

    if HANGUL in drawable():
        return "Hangul", "a font has it", ""
    fix = "install Noto Sans KR: fonts.google.com/noto/specimen/Noto+Sans+KR"
    if shutil.which("apt"):  # Debian, Ubuntu, Colab, WSL
        fix = "sudo " * (os.geteuid() != 0) + "apt install -y fonts-nanum"
    elif shutil.which("brew"):
        fix = "brew install --cask font-nanum-gothic"
    return "Hangul", "no font has it: figures show escapes such as \\ud55c", fix


def of_mount() -> Row:
    """Whether this folder is on a slow disk: a Windows disk in WSL, or a network disk."""
    if not MOUNTS.exists():
        return "disk", "its kind is only known on Linux", ""
    lines = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    mounts = {Path(words[1].replace("\\040", " ")): words[2] for words in lines}  # the last wins
    here = Path().resolve()
    kind = next((mounts[place] for place in (here, *here.parents) if place in mounts), "unknown")
    fix = "copy it to Linux's own disk: cp -r . /tmp/skipzoo" * (kind in SLOW)
    return "disk", kind + (": slow" if fix else ", not known to be slow"), fix


def of_disk() -> Row:
    """Free disk space here."""
    free = shutil.disk_usage(".").free / 1e9
    fix = "du -sh cache runs ~/.cache shows what is large; cache may be deleted" * (free < 5)
    return "free space", f"{free:.0f} GB", fix


def forecasts(device: "torch.device", last_start: float) -> list[Row]:
    """Forecasts of targets that take long; none starts after `last_start` (of perf_counter)."""
    from data.cifar import CIFAR_CACHE, FOLDER
    from experiments.plumbing.device import has_bf16

    precisions = ["fp32"] + ["bf16"] * has_bf16(device)
    if device.type == "cuda" and not has_bf16(device):
        precisions.append("fp16")
    missing = "" if (CIFAR_CACHE / FOLDER).is_dir() else "; first it downloads CIFAR-10, 170 MB"
    rows = []
    for target, preset, note in (
        ("make ablation", "quick", ""), ("make ablation-vit", "vit", ""),
        ("make ablation PRESET=cifar10", "cifar10", missing),
        ("make transfer, on ants and bees", None, ""),
        ("make ablation PRESET=imagenet-nets", "imagenet-nets", missing),
    ):  # fmt: skip
        found = "not timed: too little time, the machine is busy"
        if time.perf_counter() < last_start:
            until = min(time.perf_counter() + PATIENCE, last_start)
            found = f"{min(foretell(preset, name, device, until) for name in precisions)}{note}"
        rows.append((target, found, ""))
    return rows


def foretell(preset: Any, precision: str, device: "torch.device", until: float) -> "Forecast":
    """The forecast of an ablation's preset, or of transfer (None), with random images."""
    import torch

    import zoo
    from experiments.ablation.campaign import work_of
    from experiments.ablation.options import Options as AblationOptions
    from experiments.ablation.overrides import plan
    from experiments.ablation.pool import default_jobs
    from experiments.ablation.questions import ABLATIONS, rows
    from experiments.plumbing.forecast import SameBatch, forecast
    from experiments.plumbing.precision import to_layout
    from experiments.train.loop import Settings
    from experiments.transfer import comparison
    from experiments.transfer import plan as of_transfer
    from experiments.transfer.options import Options as TransferOptions

    def batch(count: int, side: int) -> SameBatch:
        images = torch.randn(count, 3, side, side, device=device)
        return SameBatch(images, torch.zeros(count, dtype=torch.int64, device=device))

    if preset is None:  # photos; on a CPU, decoding and cropping take a few percent of the time
        settings = Settings(batch_size=4 if device.type == "cpu" else 32, precision=precision)
        model = to_layout(zoo.build("resnet18", 2), settings).to(device)
        timed = model, batch(settings.batch_size, 224), settings
        runs = of_transfer.plan(TransferOptions(""), {"resnet18": settings}, "")
        work = [comparison.work_of(run, ANTS_AND_BEES, settings.batch_size) for run in runs]
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        return forecast(work, lambda _: timed, device, threads=threads, until=until)
    drawn = ABLATIONS[preset].base.data.source == "synthetic"
    train, test = SYNTHETIC_IMAGES if drawn else CIFAR10_IMAGES
    first, *others = rows(plan(AblationOptions(preset), device, train))
    settings = replace(first.settings, precision=precision)
    if device.type == "cpu" and settings.batch_size > FEW:
        steps = settings.steps * settings.batch_size // FEW
        settings = replace(settings, steps=steps, batch_size=FEW)
    images = batch(settings.batch_size, first.data.size)
    planned = [replace(run, settings=settings) for run in (first, *others)]
    counts = first.data.train_images or train, test
    done = work_of(planned, counts, 10, device, lambda _: images)
    return forecast(*done, device, jobs=default_jobs(device), until=until)


if __name__ == "__main__":
    cli.run(main, Options, "doctor")
