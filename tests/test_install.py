"""`make setup` with a fake python3 and uv that only log their arguments; the two lock files."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from PIL import Image

LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS = ("awk", "cat", "cp", "mkdir", "rm", "sed", "sh", "test", "touch")
PYTHON = """#!/bin/sh
case "$1 $2" in
"-c "*) exec {real} "$@" ;;
"-m venv") test "$3" != --clear || rm -rf .venv
    mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip") cp {uv} .venv/bin/uv ;;
"-m experiments.check_data") exec {real} "$@" ;;
esac
echo "python $*" >> {log}
"""
UV = """#!/bin/sh
echo "uv $*" >> {log}
case "$*" in *"-r -") cat > {log}.piped ;; esac
test ! -e {log}.offline
"""
OLD = """#!/bin/sh
test "$1" = --version && echo Python 3.9.2
"""


class Checkout:
    """A copy of the files that make reads, and a PATH with hardly anything on it."""

    def __init__(self, folder):
        self.root, self.bin, self.log = folder / "skipzoo", folder / "bin", folder / "log"
        self.venv = self.root / ".venv"
        self.root.mkdir()
        self.bin.mkdir()
        for name in ("Makefile", "pyproject.toml", *LOCKS):
            shutil.copy(ROOT / name, self.root)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.put("uv", UV)
        shutil.copy(self.bin / "uv", folder / "uv")
        self.put("python3", PYTHON)

    def put(self, name: str, script: str) -> None:
        uv = self.root.parent / "uv"
        script = script.format(real=sys.executable, log=self.log, uv=uv)
        (self.bin / name).write_text(script, encoding="utf-8")
        (self.bin / name).chmod(stat.S_IRWXU)

    def make(self, *words: str, **variables: str) -> list[str]:
        """Run `make WORDS`, which must succeed; returns the logged calls of uv and python."""
        self.log.write_text("", encoding="utf-8")
        done = self.run(*words, **variables)
        assert done.returncode == 0, done.stderr
        return self.log.read_text(encoding="utf-8").splitlines()

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [shutil.which("make"), *words], cwd=self.root, env={"PATH": str(self.bin)} | variables,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def refuses(self, *words: str) -> str:
        """Run `make WORDS`, which must fail; returns the three lines before make's own."""
        done = self.run(*words)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ")]
        assert done.returncode == 2
        assert len(lines) == 3, done.stderr
        return "\n".join(lines)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def installed(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("uv pip install")]


def test_setup_installs_the_users_lock_and_tests_add_theirs(checkout):
    (users,) = installed(checkout.make("setup"))
    assert users.endswith("--require-hashes -r requirements.lock")
    assert checkout.make("bugs") == ["python -m experiments.bugs"]
    for target in ("verify", "test", "test-fast", "check"):
        (checkout.venv / ".ready-dev").unlink(missing_ok=True)
        (added,) = installed(checkout.make(target))
        assert added.endswith("--require-hashes --no-deps -r requirements-dev.lock")
        assert not installed(checkout.make(target))


@pytest.mark.parametrize("build", ["cpu", "auto", "cu128"])
def test_another_build_of_torch_leaves_out_its_hashes_and_cudas_libraries(checkout, build):
    (line,) = installed(checkout.make("setup", f"TORCH={build}"))
    assert line.endswith(f"--torch-backend {build} -r -")
    piped = checkout.log.with_suffix(".piped").read_text(encoding="utf-8")
    given, lock = (pins(text) for text in (piped, read("requirements.lock")))
    cuda = {name for name in lock if re.match("nvidia|cuda|triton", name)}
    assert cuda
    assert set(given) == set(lock) - cuda
    for name, stanza in given.items():
        assert ("--hash" not in stanza) == (name in ("torch", "torchvision")), name
        assert stanza.split()[0] in lock[name]


def test_a_build_of_torch_holds_until_another_is_named(checkout):
    checkout.make("setup", "TORCH=cpu")
    mark = checkout.venv / "mark"
    mark.touch()
    assert not installed(checkout.make("setup"))
    assert not installed(checkout.make("ablation", "TORCH=cpu"))
    os.utime(checkout.root / "requirements.lock", (2**32, 2**32))
    (again,) = installed(checkout.make("setup"))
    assert "--torch-backend cpu" in again
    assert mark.exists()
    os.utime(checkout.root / "requirements.lock", (0, 0))
    (other,) = installed(checkout.make("setup", "TORCH=lock"))
    assert "--torch-backend" not in other
    assert not mark.exists()
    assert not installed(checkout.make("setup"))


def test_the_builds_in_the_documentation_are_accepted(checkout):
    builds = re.findall(r"make setup TORCH=(\w+)", read("docs/install.md") + read("README.md"))
    others = re.findall(r"or (cu\d+), (rocm[\d.]+), (xpu)", read("docs/install.md"))[0]
    assert {"cpu", "auto", "lock"} <= set(builds)
    for build in {*builds, *others}:
        checkout.make("setup", f"TORCH={build}")


def test_another_python_makes_the_environment_anew(checkout):
    checkout.make("setup")
    shutil.copy(checkout.bin / "python3", checkout.bin / "python3.12")
    (checkout.venv / "mark").touch()
    # The settings of an existing .venv win over the environment; only arguments of make count.
    assert not installed(checkout.make("setup", PYTHON="python3.12", TORCH="cpu"))
    assert installed(checkout.make("setup", "PYTHON=python3.12"))
    assert not (checkout.venv / "mark").exists()
    assert not installed(checkout.make("setup"))


def test_an_environment_from_before_the_option_torch_has_the_locks_torch(checkout):
    checkout.venv.mkdir()
    (checkout.venv / "bin").mkdir()
    shutil.copy(checkout.bin / "python3", checkout.venv / "bin" / "python")
    (checkout.venv / ".ready").touch()
    assert not installed(checkout.make("setup"))
    assert installed(checkout.make("setup", "TORCH=cpu"))


def test_names_of_builds_that_do_not_exist_are_refused(checkout):
    assert "TORCH=gpu" in checkout.refuses("setup", "TORCH=gpu")
    checkout.make("setup")
    assert "give cpu" in checkout.refuses("ablation", "TORCH=12.8")


def test_without_the_index_setup_says_what_to_do(checkout):
    offline = checkout.log.with_suffix(".offline")
    offline.touch()
    said = checkout.refuses("setup", "TORCH=cpu")
    assert "TORCH=cpu" in said
    assert "download.pytorch.org" in said
    offline.unlink()
    assert "--torch-backend cpu" in installed(checkout.make("setup"))[0]


def test_an_environment_of_somebody_elses_is_left_alone(checkout):
    checkout.venv.mkdir()
    (checkout.venv / "mine").touch()
    assert "rm -r .venv" in checkout.refuses("setup")
    assert (checkout.venv / "mine").exists()


def test_an_old_python_is_refused_with_uvs_command(checkout):
    checkout.put("python3", OLD)
    said = checkout.refuses("setup")
    assert "Python 3.9.2" in said
    assert 'uv python install 3.12 && make setup PYTHON="$(uv python find 3.12)"' in said
    assert not checkout.venv.exists()


def test_without_uv_python3_gets_it(checkout):
    (checkout.bin / "uv").unlink()
    assert installed(checkout.make("setup"))
    assert (checkout.venv / "bin" / "uv").exists()


def test_versions_of_python_are_the_same_everywhere():
    assert PROJECT["requires-python"] == ">=3.11,<3.15"
    assert "(3, 11) <= sys.version_info[:2] <= (3, 14)" in read("Makefile")
    for name in ("README.md", "docs/install.md", "Makefile"):
        assert "Python 3.11 to 3.14" in read(name), name


def test_a_notebooks_torch_is_new_enough_for_pip_to_keep_it():
    """Colab's and Kaggle's may be a year old; with a higher lower bound, pip would replace it."""
    bounds = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["experiments"]]
    torches = [name for name in bounds if re.search("[<>=~]", name)]
    assert torches == ["torch>=2.8", "torchvision>=0.23"]


def test_the_locks_are_pinned_hashed_and_name_no_registry():
    users, tests = (pins(read(name)) for name in LOCKS)
    for name, stanza in (*users.items(), *tests.items()):
        assert re.match(r"[a-z0-9-]+==[^ ]+", stanza), name
        assert "--hash=sha256:" in stanza, name
        assert "://" not in stanza, name
    assert not users.keys() & tests.keys()
    extras = PROJECT["optional-dependencies"]
    assert named(PROJECT["dependencies"], extras["experiments"]) <= users.keys()
    assert named(extras["dev"]) <= tests.keys()


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(lock: str) -> dict[str, str]:
    """Name -> its text in the lock, of all its versions together."""
    found: dict[str, str] = {}
    for stanza in re.split(r"(?m)^(?=[a-z])", lock)[1:]:
        name = stanza.partition("==")[0]
        found[name] = found.get(name, "") + stanza
    return found


def named(*lists: list[str]) -> set[str]:
    return {re.split(r"[>=<\[]", name)[0] for each in lists for name in each} - {"skipzoo"}


@pytest.mark.parametrize("where", ["data", "data/hymenoptera_data"])
def test_images_may_lie_beside_the_package_data(checkout, where):
    (checkout.root / "data").mkdir()
    for file in (ROOT / "data").glob("*.*"):
        shutil.copy(file, checkout.root / "data")
    for package in ("zoo", "experiments"):
        (checkout.root / package).symlink_to(ROOT / package)
    for place in ("train/ants/1", "train/ants/2", "train/bees/3", "val/ants/4", "val/bees/5"):
        path = checkout.root / where / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + int(path.stem), 40)).save(path)
    checkout.make("setup")
    done = checkout.run("check-data", f"DATA={where}", "ARGS=--workers 0")
    assert done.returncode == 0, done.stderr
    assert "3 + 2 images in 2 classes: all decode" in done.stdout
    done = checkout.run("check-data")
    assert done.returncode == 2
    assert "name your folder of images: make check-data DATA=my_images" in done.stderr


def test_a_python_without_the_libraries_is_told_so():
    """-S: Python starts without installed packages, as outside of .venv."""
    command = [sys.executable, "-S", "-m", "experiments.predict", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert "source .venv/bin/activate" in lines[2]


def test_git_ignores_images_beside_the_package_data_and_none_of_its_files(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in ("data/batches.py", "data/train/ants/1.jpg", "data/hymenoptera_data/val/a/2.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    listed = ["git", "ls-files", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [".gitignore", "data/batches.py"]
