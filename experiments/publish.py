"""For developers: write results into docs/ and README.md.

python -m experiments.publish readme                  README's parts from results and code
python -m experiments.publish read                    the reading path as pages: runs/read/
python -m experiments.publish verify                  the comparison with other libraries
python -m experiments.publish bugs                    the gallery of bugs
python -m experiments.publish samples                 docs/samples.png: the synthetic images
python -m experiments.publish runs/quick              an ablation, or experiments.transfer's results
python -m experiments.publish runs/bench.json         the ratios of experiments.bench

Text between <!-- NAME --> and <!-- /NAME --> is replaced in each page that has these two lines.
"""

import ast
import inspect
import json
import re
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import ResultsError, doing
from experiments.plumbing.tables import Part, Rows, markdown

# Folders of docs/ with a published ablation, and the page of docs/ that explains it.
PAGES = {
    "quick": "presets", "cifar10": "presets", "imagenet-nets": "imagenet-nets",
    "ablation-vit": "transformers", "shortcuts": "blocks", "shortcuts-cifar10": "blocks",
    "order": "blocks", "rate": "blocks", "no-norm": "blocks", "zero-gamma": "blocks",
    "stochastic-depth": "blocks",
}  # fmt: skip


def fill_in(text: str, name: str, content: str) -> str:
    """`text` with `content` between its lines <!-- name --> and <!-- /name -->."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        where = f"looked for <!-- {name} --> and <!-- /{name} -->"
        fix = "go to skipzoo's own folder, or add the two lines where the table belongs"
        raise ResultsError(f"no page here has a place for {name!r}", where, fix)
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def put_into_docs(name: str, parts: Sequence[Part]) -> None:
    """Write `parts` into the pages that have a place for them: README*.md, or one of docs/."""
    from zoo.weights.atomic import write_atomic

    pages = [*Path().glob("README*.md"), *Path("docs").glob("*.md")]
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    places = [page for page in pages if f"<!-- {name} -->" in texts[page]]
    for page in places or [Path("README.md")]:
        text = fill_in(texts.get(page, ""), name, markdown(parts))
        write_atomic(page, text.encode())


# --- What README takes from results and code ---


def readme_parts() -> dict[str, list[Part]]:
    """The generated parts of README.md, by name."""
    from experiments.bench.report import in_short

    return {
        "summary": summary(), "reading": [reading()], "forward": [forwards()],
        "results": [answers()], "deletions": [deletions()], "equal": [equalities()],
        "speed": in_short(),
    }  # fmt: skip


def summary() -> list[Part]:
    """The deepest plain and residual network of the quick ablation, and how they were trained."""
    from experiments.ablation.report import read_results
    from experiments.ablation.runs import in_words
    from experiments.plumbing.stats import estimate

    results = read_results(Path("docs/quick"))
    deepest = max(result["depth"] for result in results)
    lines = []
    for words, network in (("plain", "plain"), ("residual", "resnet")):
        rows = [r for r in results if (r["network"], r["depth"], r["norm"])
                == (network, deepest, "batch")]  # fmt: skip
        loss, error = (estimate([row[key] for row in rows]) for key in ("train_loss", "test_error"))
        lines.append([f"{words}, {deepest} layers", loss.show(3), f"{error.show(1, 100)} %"])
    first, minutes = results[0], sum(result["seconds"] for result in results) / 60
    what = "with 56 layers, plain networks hardly learn and residual ones do"
    figure = f"![Training loss and error by epoch: {what}](docs/quick/curves.png)"
    source = in_words(first["source"], first["size"])
    sentence = (
        f"{source[0].upper()}{source[1:]}, {first['steps']} steps, batch {first['batch_size']}. "
        "Table: mean ± 95 % confidence interval; shaded: minimum to maximum over seeds. The "
        f"{len(results) - 2} runs, and 2 more without batch norm, take about {minutes / 2:.0f} "
        f"minutes on 2 CPU cores ({first['device']}, {first['precision']}). "
        "This is a small version of figure 6 of [He et al. 2015](https://arxiv.org/abs/1512.03385)."
    )
    header = (f"the same training, {len(rows)} seeds", "training loss", "test error")
    return [Rows(header, lines), figure, sentence]


def reading_path() -> list[Path]:
    """The files to read, in order: each names the one to read next."""
    path = [Path("zoo/blocks.py")]
    while found := re.search(r"Read next: ([a-z/]+\.py)", path[-1].read_text(encoding="utf-8")):
        path.append(Path(found[1]))
    return path


def reading() -> Rows:
    """The reading path with line counts; the idea of a file is its docstring's first line."""
    lines = []
    for number, path in enumerate(reading_path(), 1):
        text = path.read_text(encoding="utf-8")
        idea = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
        lines.append([f"{number}. [`{path}`]({path})", str(len(text.splitlines())), idea])
    return Rows(("file", "lines", "its idea"), lines, ("---", "---:", "---"))


def write_reading() -> None:
    """Write the reading path as pages in runs/read; print where, and what is not translated."""
    from experiments.drawing.annotated import Language, write_pages

    files = [path.as_posix() for path in reading_path()]
    texts = tomllib.loads(Path("docs/ko/reading.toml").read_text(encoding="utf-8"))
    korean = Language("ko", files, **texts)
    print(f"open {write_pages(files, Path('runs/read'), korean)}")
    for text in sorted(korean.asked - korean.texts.keys()):
        print(f"docs/ko/reading.toml has no Korean for: {text[:80]}")


def forwards() -> str:
    """forward() of BasicBlock and of its plain twin, in two columns, without comments."""
    from zoo.blocks import BasicBlock
    from zoo.plain import PlainBasicBlock

    columns = []
    for block in (BasicBlock, PlainBasicBlock):
        lines = inspect.getsource(block.forward).splitlines()[1:]
        code = [re.sub("# .*", "", line).strip() for line in lines]
        columns.append([block.__name__, *filter(None, code)])
    width = max(map(len, columns[0])) + 6
    rows = [f"{left:{width}}{right}" for left, right in zip(*columns, strict=True)]
    return "\n".join(["```", *rows, "```"])


def equalities() -> str:
    """The table of verify, as in docs/proof.md."""
    text = Path("docs/proof.md").read_text(encoding="utf-8")
    block = text.partition("<!-- verify -->")[2].partition("<!-- /verify -->")[0]
    return "\n".join(line for line in block.splitlines() if line.startswith("|"))


def answers() -> Rows:
    """A line for each published ablation."""
    from experiments.ablation.block_questions import is_tuning
    from experiments.ablation.comparison import in_short, question_of
    from experiments.ablation.report import read_results
    from experiments.ablation.runs import in_words
    from experiments.ablation.verdict import compare_arms, degradation_of
    from experiments.anatomy.findings import answers_in
    from experiments.anatomy.one_block import CHEAPER

    lines = []
    for name, page in PAGES.items():
        if not (folder := Path("docs") / name).is_dir():
            continue
        rows = read_results(folder)
        if about_blocks := question_of(rows):
            question, answer = about_blocks.question, in_short(rows, about_blocks)
            if about_blocks.by_deletion:
                found = answers_in(Path("docs") / f"anatomy-{name}")
                answer = "; ".join(
                    f"{row['of']}: {row['answer']}" for row in found if row["claim"] == CHEAPER
                )
            n = len({row["seed"] for row in rows if not is_tuning(row)})
        else:
            effect = degradation_of(rows)
            networks = "ViTs" if effect.unit == "blocks" else "networks"
            depths = f"{effect.depths[0]} to {effect.depths[-1]} {effect.unit}"
            question = f"Does depth ({depths}) harm plain {networks} more than residual ones?"
            answer, difference, *_ = compare_arms(effect.pairs)
            rise = difference.split(" (")[0]
            answer = f"{answer.lower()}; rise with depth, plain minus residual: {rise}"
            n = len(effect.pairs)
        preset, scale, _ = name.removeprefix("ablation-").partition("-cifar10")
        minutes = sum(row["seconds"] for row in rows) / 60 / 2
        command = f"`make ablation PRESET={preset}" + " ARGS='--scale cifar10'" * bool(scale) + "`"
        command += ", and the one it prints" * bool(about_blocks and about_blocks.by_deletion)
        lines.append([
            f"[{question}](docs/{page}.md)", in_words(rows[0]["source"], rows[0]["size"]), answer,
            str(n), f"{minutes:.0f}", command,
        ])  # fmt: skip
    return Rows(("question", "images", "answer", "n", "minutes", "command"), lines,
                ("---", "---", "---", "---:", "---:", "---"))  # fmt: skip


def deletions() -> Rows:
    """For each network of docs/anatomy, plain ones last: its error, and the rises of the error."""
    from experiments.anatomy.one_block import WAYS, median_rise

    lines, paths = [], Path("docs/anatomy/one-block").glob("*.json")
    for path in sorted(paths, key=lambda path: (path.stem.startswith("plain"), path.stem)):
        result = json.loads(path.read_text(encoding="utf-8"))["result"]
        rises = [median_rise(result, way).show(1) for way in WAYS]
        lines.append([path.stem, f"{result['intact']['stored']:.1f} %", *rises])
    return Rows(("network", "test error", "rises by", "with statistics measured again"), lines,
                ("---", "---:"))  # fmt: skip


def histories_csv(folder: Path) -> str:
    """The history.csv of every run in one file; each line begins with the run's name."""
    lines = []
    for path in sorted(folder.glob("*/history.csv")):
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        lines += [f"{path.parent.name},{row}" for row in rows]
    return "\n".join([f"run,{header}", *lines]) + "\n"


def publish_folder(folder: Path) -> None:
    """Write the report into its page; copy the rows and figures to docs/NAME/."""
    from data.listing import readable
    from experiments.ablation import report as ablation
    from experiments.anatomy import findings as anatomy
    from experiments.plumbing.results import FINDINGS, is_of_transfer
    from experiments.transfer import report as transfer
    from experiments.transfer import stages
    from experiments.transfer.figures import draw_stages
    from zoo.weights.atomic import write_atomic

    of_transfer = is_of_transfer(readable(folder))
    if (folder / FINDINGS).is_file():
        name = "anatomy" if folder.name == "anatomy-published" else folder.name
        if name != "anatomy" and name.removeprefix("anatomy-") not in PAGES:
            fix = f"name it anatomy-published, or anatomy- and one of {', '.join(PAGES)}"
            raise ResultsError("no page of docs/ is for these results", folder, fix)
        put_into_docs(name, anatomy.report_of(folder))
        keep = shutil.ignore_patterns(".lock")
        shutil.copytree(folder, Path("docs") / name, dirs_exist_ok=True, ignore=keep)
        return
    if (folder / stages.FILE).is_file() and not of_transfer:
        found, docs = stages.read(folder), Path("docs/stages")
        put_into_docs("stages", stages.report_of_stages(found))
        draw_stages(docs / "stages.png", found)
        shutil.copy(folder / stages.FILE, docs / stages.FILE)
        return
    if not all(any(folder.glob(name)) for name in ("results.csv", "*/history.csv")):
        fix = "name the folder of the runs; to finish them, repeat their command"
        raise ResultsError("there is nothing to publish, or not every run is finished", folder, fix)
    name = "transfer" if of_transfer else folder.name
    package = transfer if of_transfer else ablation
    put_into_docs(name, package.report_of(folder))
    docs = Path("docs") / name
    docs.mkdir(parents=True, exist_ok=True)
    if not of_transfer:
        write_atomic(docs / "histories.csv", histories_csv(folder).encode())
    for made in (*folder.glob("*.png"), *folder.glob("*.csv")):
        if made.name != "split.csv":  # it has names of the user's files
            shutil.copy(made, docs / made.name)


@dataclass(frozen=True)
class Options:
    """Write tables and verdicts into README.md and docs/; copy rows and figures to docs/NAME/."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT")]
    """readme, read, verify, bugs, samples, a folder of results, or the file of bench."""


def main(options: Options) -> int:
    """Return 0, or 1 if a network differs from its library or a bug is not caught."""
    with doing("loading the libraries"):
        import torch

        from experiments.bench.report import publish as publish_bench
        from experiments.plumbing.device import make_deterministic
        from experiments.proof import gallery, prove
    make_deterministic(torch.device("cpu"))
    good = True
    if options.what == "verify":
        good, table, text = prove.verify_summary()
        put_into_docs("verify", [table, text])
    elif options.what == "bugs":
        verdicts = gallery.examine_all(gallery.BUGS)
        good = all(any(found.values()) for found in verdicts.values())
        put_into_docs("bugs", [gallery.table(verdicts), gallery.CAPTION])
    elif options.what == "readme":
        for name, parts in readme_parts().items():
            put_into_docs(name, parts)
    elif options.what == "samples":
        from experiments.drawing.samples import draw_samples

        draw_samples(Path("docs/samples.png"))
    elif options.what == "read":
        write_reading()
        return 0
    elif options.what.endswith(".json"):
        publish_bench(Path(options.what), put_into_docs)
    else:
        publish_folder(Path(options.what))
    print("done" + "; next: python -m experiments.publish readme" * (options.what != "readme"))
    return 0 if good else 1


if __name__ == "__main__":
    cli.run(main, Options, "publish")
