"""README and docs tell the truth: commands are understood and run, links and targets exist."""

import re
import runpy
import shlex
import subprocess
import zlib
from pathlib import Path

import pytest
import torch
import torchvision
import tyro
from conftest import ROOT
from PIL import Image

import zoo
from data.views import View
from experiments import publish
from experiments.classifier import save_classifier
from experiments.plumbing.tables import markdown
from experiments.proof.gallery import BUGS
from zoo.weights import published
from zoo.weights.files import Metadata, Weights

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
    if path.name not in ("CHANGELOG.md", "LOG.md")
}
README, TEXT = PAGES["README.md"], "\n".join(PAGES.values())
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Commands in a line of text or of a table, and those in blocks of code.
COMMANDS = sorted(set(re.findall(r"`(python -m [a-z.]+[^`]*)`", README)))
BLOCKS = re.findall(r"(?ms)^```\n(.*?)^```$", TEXT)
LINES = sorted({
    line.partition("  #")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("make ", "python -m experiments.", "torchrun "))
} | set(re.findall(r"`((?:make [a-z-]+|python -m experiments\.[a-z]+) [^`]*)`", TEXT)))  # fmt: skip
TARGETS = sorted(
    set(re.findall(r"\bmake ([a-z-]+)\b(?! alone)", TEXT))
    & set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))
)
TINY = {
    "experiments": "",
    "experiments.transfer": "--model resnet8 --weights none --size 16 --squash --epochs 1 "
    "--batch-size 4 --seeds 1 --precision fp32 --output-dir {tmp}/out",
    "experiments.check_data": "--workers 0",
    "experiments.diagnose": "--help",
    "experiments.doctor": "--help",
    "experiments.eject": "--help",
    "experiments.verify": "resnet18",
    "experiments.bugs": "--help",
    "experiments.shapes": "",
    "experiments.train": "--epochs 1",
    "experiments.report": "",
    "experiments.saliency": "--help",
    "pytest": "--collect-only -q tests/test_arrows.py",
}


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_what_readme_takes_from_results_and_code_is_up_to_date(monkeypatch):
    """If they are not: python -m experiments.publish readme."""
    monkeypatch.chdir(ROOT)
    for name, parts in publish.readme_parts().items():
        assert publish.fill_in(README, name, markdown(parts)) == README


KOREAN = PAGES["README.ko.md"]
TABLES = ("summary", "reading")  # written by hand in Korean; the others are generated


def sections(text: str) -> list[str]:
    """The parts of a page from heading to heading, without generated tables and HTML comments."""
    for name in publish.readme_parts():
        if name not in TABLES:
            text = re.sub(f"(?s)<!-- {name} -->.*?<!-- /{name} -->", "", text)
    text = re.sub(r"(?m)^(\|[^|]*\|) *\d+ (\|.*)", r"\1 \2", text)  # line counts of files
    return re.split("(?m)^#+ ", re.sub("(?s)<!--.*?-->", "", text))[1:]


def facts(section: str) -> list[str]:
    """What a translation leaves as it is: commands, code, links, and numbers in digits."""
    blocks = re.findall("(?ms)^```\n(.*?)^```$", section)
    lines = [re.split("  +", line.strip())[0] for block in blocks for line in block.splitlines()]
    prose = re.sub("(?ms)^```\n.*?^```$", "", section)
    code = re.findall("`([^`]+)`", prose)
    links = re.findall(r"\]\(([^)]+)\)", prose)
    prose = re.sub(r"`[^`]+`|\]\([^)]+\)", "", prose)
    return sorted(lines + code + links + re.findall(r"\d[\d,.]*\d|\d", prose))


def test_the_korean_readme_says_the_same(monkeypatch):
    """If README changed: translate the change, then write the new numbers into README.ko.md."""
    monkeypatch.chdir(ROOT)
    english, korean = sections(README), sections(KOREAN)
    assert len(english) == len(korean)
    for ours, theirs in zip(english, korean, strict=True):
        heading, ours = ours.split("\n")[0], ours.replace("README.ko.md", "README.md")
        assert facts(ours) == facts(theirs), heading
        assert re.search("[가-힣]", theirs)
    digests = " ".join(f"{zlib.crc32(section.encode()):08x}" for section in english)
    assert f"<!-- README.md, translated as of: {digests} -->" in KOREAN


def test_the_korean_readme_has_the_tables_of_the_english_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, parts in publish.readme_parts().items():
        if name not in TABLES:
            assert publish.fill_in(KOREAN, name, markdown(parts)) == KOREAN


def test_the_reading_path_goes_through_nine_files_and_ends(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = publish.reading_path()
    assert len(path) == len(set(path)) == 9
    assert path[-1].name == "questions.py"
    lines = [file.read_text(encoding="utf-8").count("\n") for file in path]
    assert sum(lines) < 1500
    others = {p for folder in ("zoo", "data", "experiments") for p in Path(folder).rglob("*.py")}
    for file in others - {*path, Path("experiments/publish.py")}:  # no second path
        assert not re.search("(?m)^Read (next|first|with)", file.read_text(encoding="utf-8")), file


def understood(words: list[str], monkeypatch) -> None:
    """Parse a command's options without running it."""
    parsed = []

    def parse(main, options, module, resumes=False):
        config = (tyro.conf.FlagCreatePairsOff,)
        parsed.append(tyro.cli(options, args=words[1:], config=config))

    monkeypatch.setattr("experiments.plumbing.cli.run", parse)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    assert len(parsed) == 1


@pytest.mark.parametrize("line", LINES)
def test_every_command_on_every_page_is_understood(line, monkeypatch):
    if line.startswith("make "):
        target = shlex.split(line)[1]
        assert target in TARGETS
        done = subprocess.run(
            ["make", "-n", "READY=", "ORACLES=", *shlex.split(line)[1:]], cwd=ROOT,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        line = done.stdout.splitlines()[-1]
    found = re.search(r"-m (experiments\..*)", line)
    if found:
        understood(shlex.split(found[1]), monkeypatch)


def test_readme_names_the_commands_that_matter():
    assert {"ablation", "test", "setup"} <= set(TARGETS)
    assert {shlex.split(command)[2] for command in COMMANDS} >= {"experiments.ablation", "pytest"}


@pytest.mark.parametrize("target", TARGETS)
def test_makes_targets_exist(target):
    subprocess.run(["make", "-n", target], cwd=ROOT, check=True)


def test_make_alone_lists_every_target():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"(?m)^make ([a-z-]+)", done.stdout)
    assert listed == re.findall(r"(?m)^([a-z-]+):.*##", MAKEFILE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [c for c in COMMANDS if not c.endswith(("ablation", " vit", "bench"))]
)
def test_python_m_lines_run(line, command, tmp_path):
    words = shlex.split(line)[2:]
    if words[0] == "experiments.report":  # the committed rows stand in for a campaign
        words[1] = "docs/quick/results.csv"
    if "my_images" in words:
        words[1] = str(tmp_path / "my_images")
        for name, colour in (("cat", "red"), ("dog", "blue")):
            folder = tmp_path / "my_images" / name
            folder.mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (20 + i, 20), colour).save(folder / f"{i}.png")
    done = command(*words, *TINY[words[0]].format(tmp=tmp_path).split())
    assert done.returncode == 0, done.stderr


def test_the_ablation_lines_run(campaign, vit_campaign):
    """The fixtures have run these commands."""
    for line, (_, done) in (("", campaign), (" vit", vit_campaign)):
        words = f"python -m experiments.ablation{line}"
        assert words in COMMANDS
        assert shlex.join(["python", *done.args[1:]]).startswith(words)


@pytest.mark.slow
def test_the_bugs_line_shows_the_whole_gallery(invoke, examined, monkeypatch):
    monkeypatch.setattr("experiments.proof.gallery.examine", examined)
    done = invoke("experiments.bugs")
    assert done.returncode == 0, done.stderr
    assert f"caught of {len(BUGS)}" in done.stdout


def test_bench_refuses_too_few_rounds(command):
    assert command("experiments.bench", "--rounds", "3").returncode == 2


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_exists(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        file, _, section = link.partition("#")
        path = (ROOT / page).parent / file
        assert path.exists(), link
        if section:
            headings = re.findall("(?m)^#+ (.*)", path.read_text(encoding="utf-8"))
            assert section in [heading.lower().replace(" ", "-") for heading in headings]


def test_the_python_of_all_pages_runs(tmp_path, monkeypatch):
    """With random weights instead of the published ones that the pages use."""
    state = torchvision.models.resnet50().state_dict()
    padded = zoo.export(zoo.build("resnet56"), "cifar").items()
    states = {"resnet50": state, "resnet56": {k.removeprefix("module."): v for k, v in padded},
              "resnet56_noshort": zoo.export(zoo.build("plain56"), "li")}  # fmt: skip

    def fetch(url: str, **_: str) -> Weights:
        name = max((name for name in states if name in url), key=len)
        return Weights(states[name], Metadata(), url)

    monkeypatch.setattr(published, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    for name, classes in (("resnet50.pth", 1000), ("resnet50_model.pth", 4)):
        torch.save(torchvision.models.resnet50(num_classes=classes).state_dict(), name)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    blocks = [code for code in blocks if "onnx" not in code]  # test_onnx.py runs that one
    assert len(blocks) == 3
    model = zoo.build("resnet8", 2)
    save_classifier(Path("best.safetensors"), "resnet8", model, ("cat", "dog"), View(), {})
    Image.new("RGB", (300, 200), "red").save("cat.jpg")
    for code in blocks:
        exec(code, {})
    assert zoo.list_models()[0] == "plain8"


def test_the_table_of_presets_has_the_presets():
    from experiments.ablation.questions import ABLATIONS

    rows = re.findall(r"(?m)^\| `([a-z0-9-]+)` \|[^|]*\| ([\d, ]+) \|", TEXT)
    assert {name: [int(d) for d in depths.split(",")] for name, depths in rows} == {
        name: sorted(ablation.axes["depth"]) for name, ablation in ABLATIONS.items()
    }


def test_every_dependency_says_why():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(r"(?s)(?:dependencies|experiments|onnx|dev) = \[\n(.*?)\n\]", text)
    lines = [line for block in lists for line in block.splitlines() if "skipzoo" not in line]
    assert len(lists) == 4
    assert all(re.search(r",  # \w+", line) for line in lines)
