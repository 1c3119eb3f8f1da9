"""Class names in the order of a network's outputs, given by the user or stored in the file."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from data.folders import scan, scan_classes
from data.listing import Listing
from data.progress import say
from experiments.plumbing.cli import UsageError
from zoo import WeightsError

FORMS = (
    "give a,b,c in the order of the outputs; a text file, a name per line; a JSON file; or the "
    "folder of class folders that the network was trained on"
)


def class_names(
    requested: str | Sequence[str] | None,
    stored: tuple[str, ...] | None,
    outputs: int,
    source: object,
) -> tuple[str, ...] | None:
    """The names that --classes requests, else those stored in the file `source`, if any.

    Raises UsageError or WeightsError unless there is one name per output, all different.
    """
    if requested is None:
        if stored is not None and len(stored) != outputs:
            why = f"the file names {len(stored)} classes and its head has {outputs} outputs"
            raise WeightsError(why, source, "get the file again, or give --classes")
        return stored
    names = names_in(requested) if isinstance(requested, str) else tuple(requested)
    if len(names) != outputs or len(set(names) - {""}) != outputs:
        some = ", ".join(names[:5]) + " ..." * (len(names) > 5)
        why = f"the network has {outputs} outputs, which need as many different names"
        given = f"these are {len(names)}: {some:.150}"
        raise UsageError(f"{why}; {given}", f"--classes {requested!s:.150}", FORMS)
    if stored not in (None, names):
        theirs = ", ".join(stored)
        say(f"class names: those of --classes, not the file's ({theirs:.100})", sys.stderr)
    return names


def names_in(text: str) -> tuple[str, ...]:
    """The names in a list a,b,c, in a text or JSON file, or of the class folders of a folder.

    A folder is read as for training. Raises UsageError for a file without names, and DataError.
    """
    path = Path(text)
    if os.path.isdir(text):  # noqa: PTH112  Path.is_dir() raises an error for a very long text
        # Neither drawn found nor copies change the names.
        found = scan_classes(Listing(path)) or scan(Listing(path), wanted=(), keep_duplicates=True)
        for note in found.notes:
            say(f"class names: {note}", sys.stderr)
        return found.classes
    if not os.path.isfile(text):  # noqa: PTH113
        if path.suffix.lower() in (".txt", ".json", ".csv"):
            raise UsageError("there is no such file of class names", path, FORMS)
        return tuple(name.strip(" []'\"") for name in text.split(","))  # also a pasted Python list
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            lines = tuple(line.strip() for line in content.splitlines() if line.strip())
            if len(lines) > 1 and all(re.match(r"\d+[\s,;:]", line) for line in lines):
                raise ValueError("its lines begin with numbers; give names only, in order")
            return lines
        entries = json.loads(content)
        if isinstance(entries, dict):  # number -> name, or ImageFolder's class_to_idx
            if all(type(value) is int for value in entries.values()):
                entries = {number: name for name, number in entries.items()}
            names = {int(number): name for number, name in entries.items()}
            if sorted(names) != [*range(len(entries))]:
                raise ValueError("its numbers are not 0, 1, 2 ...")
            entries = [names[number] for number in sorted(names)]
        if not all(isinstance(name, str) for name in entries):
            raise ValueError("names are needed")
        return tuple(entries)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"no class names in this file: {error}", path, FORMS) from error
