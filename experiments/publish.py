"""Put results into README.md or a page of docs/, and rows and figures into docs/: for developers.

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

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import ResultsError, doing
from experiments.plumbing.tables import Part, markdown


def fill_in(text: str, name: str, content: str) -> str:
    """`text` with `content` between its lines <!-- name --> and <!-- /name -->."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        where = f"looked for <!-- {name} --> and <!-- /{name} -->"
        fix = "go to skipzoo's own folder, or add the two lines where the table belongs"
        raise ResultsError(f"README.md is not here, or has no place for {name!r}", where, fix)
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def put_into_docs(name: str, parts: Sequence[Part]) -> None:
    """Into the page that has a place for it: docs/NAME.md, or README.md."""
    from zoo.weights.atomic import write_atomic

    page = Path("docs") / f"{name}.md"
    page = page if page.is_file() else Path("README.md")
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    write_atomic(page, fill_in(text, name, markdown(parts)).encode())


def histories_csv(folder: Path) -> str:
    """Every run's history.csv in one, the run's name in front of each line."""
    lines = []
    for path in sorted(folder.glob("*/history.csv")):
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        lines += [f"{path.parent.name},{row}" for row in rows]
    return "\n".join([f"run,{header}", *lines]) + "\n"


def publish_folder(folder: Path) -> None:
    """The report into its page, the rows and figures into docs/NAME/."""
    from data.listing import readable
    from experiments.ablation import report as ablation
    from experiments.plumbing.results import ALL_ROWS, is_of_transfer
    from experiments.transfer import report as transfer
    from zoo.weights.atomic import write_atomic

    of_transfer = is_of_transfer(readable(folder))
    needed = [ALL_ROWS] if of_transfer else ["results.csv", "*/history.csv"]
    if not all(any(folder.glob(name)) for name in needed):
        fix = "name the folder of the runs; the command that began them goes on"
        raise ResultsError("there is nothing to publish, or not every run is finished", folder, fix)
    name = "transfer" if of_transfer else folder.name
    package = transfer if of_transfer else ablation
    put_into_docs(name, package.report_of(folder))
    docs = Path("docs") / name
    docs.mkdir(parents=True, exist_ok=True)
    if not of_transfer:
        write_atomic(docs / "histories.csv", histories_csv(folder).encode())
    for made in (*folder.glob("*.png"), *folder.glob("*.csv")):
        if made.name != "split.csv":  # it has the names of somebody's files
            shutil.copy(made, docs / made.name)


@dataclass(frozen=True)
class Options:
    """Put results into README.md or docs/, and rows and figures into docs/."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT")]
    """verify, bugs, or a folder of results."""


def main(options: Options) -> int:
    """0 if what is published says what it should: all is equal, all bugs are caught."""
    with doing("loading the libraries"):
        import torch

        from experiments.plumbing.device import make_deterministic
        from experiments.proof import gallery, prove
    make_deterministic(torch.device("cpu"))
    good = True
    if options.what == "verify":
        good, table, text = prove.summary()
        put_into_docs("verify", [table, text])
    elif options.what == "bugs":
        verdicts = gallery.examine_all(gallery.BUGS)
        good = all(any(found.values()) for found in verdicts.values())
        put_into_docs("bugs", [gallery.table(verdicts), gallery.CAPTION])
    else:
        publish_folder(Path(options.what))
    print("README.md and docs/ are up to date")
    return 0 if good else 1


if __name__ == "__main__":
    cli.run(main, Options, "publish")
