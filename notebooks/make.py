"""Run the notebooks: each N_name.py becomes N_name.ipynb, with the outputs of this run.

All of them, or those named: python notebooks/make.py notebooks/2_two_strategies.py
"""

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
SOURCES = sorted(HERE.glob("[0-9]_*.py"))
PACKAGES = ("zoo", "data", "experiments")
PROGRESS = re.compile(r"^.* elapsed, about .* left.*\n", re.MULTILINE)


def run(notebook: NotebookNode, folder: Path, links: Sequence[str] = PACKAGES) -> None:
    """Run every cell in a new kernel in `folder`, which gets links to the repository's folders.

    So runs begin anew, and those of the repository stay as they are. Raises CellExecutionError.
    """
    for name in links:
        (folder / name).symlink_to(HERE.parent / name)
    where = {"metadata": {"path": str(folder)}}
    # The kernel of this Python, whatever the notebook names.
    options = {"kernel_name": "python3", "timeout": None, "record_timing": False}
    NotebookClient(notebook, resources=where, coalesce_streams=True, **options).execute()


def tidy(notebook: NotebookNode) -> None:
    """Keep what a reader sees: no lines of progress, and no text beside an image or a table."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # random ones would differ after every run
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = PROGRESS.sub("", output.text)
            elif len(output.get("data", ())) > 1:
                output.data.pop("text/plain", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
    language = {"name": "python"}
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": language}


def main(sources: Sequence[Path]) -> None:
    for source in sources:
        print(f"{source.name} ...", flush=True)
        notebook = jupytext.read(source)
        with tempfile.TemporaryDirectory() as folder:
            (HERE.parent / "cache").mkdir(exist_ok=True)
            run(notebook, Path(folder), (*PACKAGES, "cache"))
        tidy(notebook)
        nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or SOURCES)
