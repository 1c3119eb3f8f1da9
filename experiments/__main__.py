"""Print a list of the commands, each with the first line of its docstring."""

import ast
import signal
from pathlib import Path


def commands() -> dict[str, str]:
    """The name of every command -> the first line of its docstring."""
    here = Path(__file__).parent
    files = {path.stem: path for path in here.glob("*.py") if not path.stem.startswith("__")}
    files |= {path.parent.name: path for path in here.glob("*/__main__.py")}
    summaries = {}
    for name, path in sorted(files.items()):
        source = path.read_text(encoding="utf-8")
        if "cli.run(" in source:
            docstring = ast.get_docstring(ast.parse(source)) or ""
            summaries[name] = docstring.split("\n")[0]
    return summaries


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a traceback
    print("Commands; python -m experiments.NAME --help explains one\n")
    for name, line in commands().items():
        print(f"{name:12}{line}")
