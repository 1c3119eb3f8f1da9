"""Goes through a person's folder and writes down, by name, everything that it leaves out."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError
from data.folder import EXTENSIONS

NAMED = 5  # names in a note; the rest is counted
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
LAYOUT = "train/<class>/*.jpg beside val/ or test/, or one folder for each class"


class Reason(NamedTuple):
    """Why something is in the notes; `what` is the singular and the plural of the noun."""

    before: str
    what: tuple[str, str]


HIDDEN = Reason("left out", ("hidden file or folder", "hidden files or folders"))
NO_PICTURE = Reason(
    "left out", ("file that is not .jpg, .png ...", "files that are not .jpg, .png ...")
)
STRAY = Reason("left out", ("file in no class folder", "files in no class folder"))
BESIDE = Reason("left out", ("folder beside train/", "folders beside train/"))
NO_SPLIT = Reason(
    "left out", ("folder without any class of pictures", "folders without any class of pictures")
)
EMPTY = Reason("left out", ("class folder without pictures", "class folders without pictures"))
LOOP = Reason("left out", ("link to a folder that it lies in", "links to folders they lie in"))
AGAIN = Reason(
    "left out", ("folder already read by another name", "folders already read by other names")
)
BROKEN = Reason("left out", ("broken link", "broken links"))
SPECIAL = Reason(
    "left out", ("entry that is no file and no folder", "entries that are no files and no folders")
)


class Notes:
    """Names, kept by the reason why a person should hear of them."""

    def __init__(self) -> None:
        self.names: defaultdict[Reason, list[str]] = defaultdict(list)

    def add(self, reason: Reason, name: str) -> None:
        self.names[reason].append(name)

    def sentences(self) -> tuple[str, ...]:
        """One sentence a reason, such as "left out: 1 broken link: train/ants/a.jpg"."""
        return tuple(
            f"{before}: {len(names):,} {what[len(names) > 1]}: {some(names)}"
            for (before, what), names in sorted(self.names.items(), reverse=True)
        )


def some(names: list[str]) -> str:
    """The first names in order, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(shown(name) for name in sorted(names)[:NAMED]) + more


def shown(name: str) -> str:
    """A name that cannot steer a terminal, and that every file can hold."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted folder by folder, so that "ant/2" comes before "ant b/1", as the classes do."""
    return sorted(names, key=lambda name: name.split("/"))


def is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


class Walk:
    """Lists the folders of one root. Names are relative to it, with slashes, on every system."""

    def __init__(self, root: Path, notes: Notes) -> None:
        self.root, self.notes = root, notes

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """The folders and the files in one folder ("" is the root), by name. Links are followed."""
        folders, files = [], []
        for entry in listing(self.root / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                self.notes.add(HIDDEN, name)
            elif entry.is_symlink() and not os.path.exists(entry):  # noqa: PTH110  Path's can raise
                self.notes.add(BROKEN, name)
            elif entry.is_dir():
                folders.append((entry.is_symlink(), name))
            elif entry.is_file():
                files.append(name)
            else:
                self.notes.add(SPECIAL, name)
        # Links last: of a folder and a link to it, the folder is read and the link is noted.
        return [name for _, name in sorted(folders)], sorted(files)

    def files(self, folder: str) -> list[str]:
        """Every file at any depth below `folder`, sorted; each real folder is read once."""
        found: list[str] = []
        read: set[str] = set()
        parts = folder.split("/")
        above = [self.real("/".join(parts[:depth])) for depth in range(len(parts))]
        waiting = [(folder, above)]  # with the real folders that it lies in
        while waiting:
            here, above = waiting.pop()
            real = self.real(here)
            # Above the root too: a link to "/" would bring the whole disk in.
            if any(Path(outer).is_relative_to(real) for outer in above):
                self.notes.add(LOOP, here)
            elif real in read:
                self.notes.add(AGAIN, here)
            else:
                read.add(real)
                folders, files = self.entries(here)
                found += files
                waiting += [(inner, [*above, real]) for inner in reversed(folders)]
        return in_order(found)

    def real(self, name: str) -> str:
        return os.path.realpath(self.root / name)

    def classes(self, folders: list[str]) -> dict[str, list[str]]:
        """The pictures of each class folder; those without any are left out."""
        classes = {}
        for folder in folders:
            files = self.files(folder)
            pictures = [name for name in files if is_picture(name)]
            for name in set(files) - set(pictures):
                self.notes.add(NO_PICTURE, name)
            if pictures:
                classes[folder.rpartition("/")[2]] = pictures
            else:
                self.notes.add(EMPTY, folder)
        return classes


def listing(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError as error:
        raise DataError(
            "there is no such folder",
            shown(str(folder.absolute())),
            f"name the folder that holds {LAYOUT}",
        ) from error
    except NotADirectoryError as error:
        archive = folder.suffix.lower() in ARCHIVES
        raise DataError(
            "this is a file, not a folder of pictures",
            shown(str(folder.absolute())),
            f"{'unzip it, and ' if archive else ''}name the folder that holds {LAYOUT}",
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read a folder: {error.strerror}",
            shown(str(folder.absolute())),
            "make it readable (its owner: chmod -R u+rX), or move it elsewhere",
        ) from error
