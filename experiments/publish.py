"""Put results into README.md, and rows and figures into docs/: for developers.

python -m experiments.publish verify                  the comparison with other libraries
python -m experiments.publish bugs                    the gallery of bugs
python -m experiments.publish runs/quick              an ablation, or experiments.transfer's results
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

import experiments.ablation.report
import experiments.transfer.report
from data.listing import readable
from experiments.ablation import report_vit
from experiments.plumbing import cli
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.results import ALL_ROWS, is_of_transfer
from experiments.plumbing.tables import markdown_table
from experiments.proof import prove, resnet_bugs
from zoo.weights.atomic import write_atomic


def fill_in(text: str, name: str, content: str) -> str:
    """`text` with `content` between its lines <!-- name --> and <!-- /name -->."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ResultsError(
            f"README has no place for {name!r}",
            f"looked for <!-- {name} --> and <!-- /{name} -->",
            "add the two lines where the table belongs",
        )
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def put_into_readme(name: str, content: str) -> None:
    readme = Path("README.md")
    if not readme.is_file():
        raise ResultsError("there is no README.md here", Path.cwd(), "go to skipzoo's own folder")
    write_atomic(readme, fill_in(readme.read_text(encoding="utf-8"), name, content).encode())


def histories_csv(folder: Path) -> str:
    """Every run's history.csv in one, the run's name in front of each line."""
    lines = []
    for path in sorted(folder.glob("*/history.csv")):
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        lines += [f"{path.parent.name},{row}" for row in rows]
    return "\n".join([f"run,{header}", *lines]) + "\n"


def publish_ablation(folder: Path, results: Sequence[dict], content: str) -> None:
    """Into README.md `content`, into docs/NAME/ the rows, epochs and figures."""
    if not any(folder.glob("*/history.csv")):
        raise ResultsError("there are no epochs to publish", folder, "name the folder of the runs")
    put_into_readme(folder.name, content)
    docs = Path("docs") / folder.name
    docs.mkdir(parents=True, exist_ok=True)
    write_atomic(docs / "results.csv", experiments.ablation.report.results_csv(results).encode())
    write_atomic(docs / "histories.csv", histories_csv(folder).encode())
    for made in (*folder.glob("*.png"), *folder.glob("collapse.csv")):
        shutil.copy(made, docs / made.name)
    print(f"README.md and {docs} are up to date")


def publish_transfer(folder: Path) -> None:
    if not (folder / ALL_ROWS).is_file():
        raise ResultsError(
            "not every run is finished", folder, "the command that began them goes on"
        )
    rows = experiments.transfer.report.read_rows(folder)
    put_into_readme("transfer", experiments.transfer.report.markdown(rows))
    docs = Path("docs") / "transfer"
    docs.mkdir(parents=True, exist_ok=True)
    for name in ("results.csv", "curves.png", "accuracy_time.png"):
        shutil.copy(folder / name, docs / name)
    print(f"README.md and {docs} are up to date")


def publish_verify() -> None:
    proofs = prove.prove_all()
    _, sentence = prove.twins_alike()
    table = markdown_table(*prove.summary(proofs), "---", "---:")
    put_into_readme("verify", f"{table}\n\n{prove.CAPTION} {sentence}")


def publish_bugs() -> None:
    table = markdown_table(*resnet_bugs.table(resnet_bugs.examine_all()), "---", "---")
    put_into_readme("bugs", f"{table}\n\n{resnet_bugs.CAPTION}")


@dataclass(frozen=True)
class Options:
    """Put results into README.md, and rows and figures into docs/."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT")]
    """verify, bugs, or a folder of results."""


def main(options: Options) -> None:
    make_deterministic(torch.device("cpu"))
    folder = Path(options.what)
    if options.what == "verify":
        publish_verify()
    elif options.what == "bugs":
        publish_bugs()
    elif is_of_transfer(readable(folder)):
        publish_transfer(folder)
    else:
        results = experiments.ablation.report.read_results(folder)
        if any(result["norm"] == "layer" for result in results):
            content = report_vit.markdown(results, report_vit.read_residuals(folder))
        else:
            content = experiments.ablation.report.markdown(results)
        publish_ablation(folder, results, content)


if __name__ == "__main__":
    cli.run(main, Options, "publish")
