"""Run the notebooks: each N_name.py becomes N_name.ipynb, with the outputs of this run.

All of them, or those named: python notebooks/make.py notebooks/2_two_strategies.py
"""

import base64
import io
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

HERE = Path(__file__).resolve().parent
SOURCES = sorted(HERE.glob("[0-9]_*.py"))
LINKS = ("zoo", "data", "experiments", "docs")
PICTURE = re.compile(r"(?<=base64,)[^\"]+")
PROGRESS = re.compile(r"^.* elapsed, about .* left.*\n", re.MULTILINE)


def client(notebook: NotebookNode, folder: Path, links: Sequence[str] = LINKS) -> NotebookClient:
    """What runs the notebook in `folder`, which gets links to folders of the repository.

    So runs begin anew, and those of the repository stay as they are.
    """
    for name in links:
        (folder / name).symlink_to(HERE.parent / name)
    return NotebookClient(
        notebook, resources={"metadata": {"path": str(folder)}}, kernel_name="python3",
        timeout=None, record_timing=False, coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )  # fmt: skip


def smaller(picture: str) -> str:
    """A PNG in base64, with 256 colours: about a third of the bytes."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def tidy(notebook: NotebookNode) -> None:
    """Keep what a reader sees, small: no lines of progress, no text beside an image or a table."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # random ones would differ after every run
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = PROGRESS.sub("", output.text)
                continue
            data = output.get("data", {})
            if len(data) > 1:
                data.pop("text/plain", None)
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
            if "text/html" in data:
                html = data["text/html"]
                data["text/html"] = PICTURE.sub(lambda found: smaller(found[0]), html)
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
            client(notebook, Path(folder), (*LINKS, "cache")).execute()
        tidy(notebook)
        nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or SOURCES)
