"""Lists the files of a folder, or of zips, and notes by name everything that is left out."""

import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from data.errors import DataError, printable
from data.images import load_image

# torchvision.datasets.folder's list; importing it takes seconds, in every worker (a test compares).
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SPLIT_ORDER = ("train", "val", "test")
LAYOUT = "train/<class>/*.jpg beside val/ or test/, or one folder for each class"
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # also in a zip
NAMED = 5  # names in a note; the rest is counted

# Why something is left out, in a note before its name.
NO_CLASS = "left out, in no class folder of images"
NO_FILE = "left out, a link that is broken or leads back, or no file"
HIDDEN = "left out, hidden"
DEEP = "left out, too many folders deep"
MOST_LEVELS = 50  # of folders in a zip: each takes time


class Listing:
    """The folders of one root. Names are relative to it, with slashes, on every system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: defaultdict[str, set[str]] = defaultdict(set)  # reason -> names

    def sentences(self) -> tuple[str, ...]:
        """One per reason, such as "left out, hidden (1): train/ants/.a.jpg"."""
        notes = sorted(self.notes.items(), reverse=True)
        return tuple(f"{why} ({len(names):,}): {some(names)}" for why, names in notes if names)

    def error(self, what: str, fix: str = f"expected is {LAYOUT}") -> DataError:
        return DataError(what, self.root.absolute(), fix)

    def is_hidden(self, name: str) -> bool:
        if is_hidden := hidden(name.rpartition("/")[2]):
            self.notes[HIDDEN].add(name)
        return is_hidden

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """The folders and the files in one folder ("" is the root), by name. Links are followed."""
        try:
            with os.scandir(self.root / folder) as listed:
                found = [(f"{folder}/{e.name}" if folder else e.name, e) for e in listed]
        except OSError as error:
            raise DataError(
                f"cannot list a folder: {error.strerror}",
                (self.root / folder).absolute(),
                f"name a readable folder that holds {LAYOUT}"
                + "; unpack an archive first" * (self.root / folder).is_file(),
            ) from error
        folders, files = [], []
        for name, entry in found:
            if self.is_hidden(name):
                continue
            whole = not entry.is_symlink() or os.path.exists(entry)  # noqa: PTH110  Path's can raise
            if whole and entry.is_dir():
                folders.append((entry.is_symlink(), name))
            elif whole and entry.is_file():
                files.append(name)
            else:
                self.notes[NO_FILE].add(name)
        # Links last: of a folder and a link to it, the folder is read and the link is noted.
        return [name for _, name in sorted(folders)], sorted(files)

    def files(self, folder: str) -> list[str]:
        """Every file at any depth below `folder`, sorted; each real folder is read once."""
        found: list[str] = []
        read: set[str] = set()
        over = {self.real(""), self.real(folder.rpartition("/")[0])} if folder else set()
        waiting = [(folder, over)]  # and the folders that each lies in, links followed
        while waiting:
            here, above = waiting.pop()
            real = self.real(here)
            # A link to "/" would bring the whole disk in.
            if real in read or any(Path(one).is_relative_to(real) for one in above):
                self.notes[NO_FILE].add(here)
                continue
            read.add(real)
            folders, files = self.entries(here)
            found += files
            waiting += [(inner, {*above, real}) for inner in reversed(folders)]
        return sorted(found, key=by_folder)

    def real(self, name: str) -> str:
        return os.path.realpath(self.root / name)

    def images(self, folder: str) -> list[str]:
        """The images at any depth below the folder of a class."""
        files = self.files(folder)
        images = list(filter(is_image, files))
        self.notes["left out, not .jpg, .png ..."] |= set(files) - set(images)
        if not images:
            self.notes[NO_CLASS].add(folder)
        return images

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def open(self, name: str) -> Any:
        return (self.root / name).open("rb")

    def load(self, name: str) -> Tensor:
        return load_image(self.root / name)


class ZipListing(Listing):
    """Zips read as if they were unpacked together, without the folders above train/."""

    def __init__(self, root: Path, zips: Sequence[Path]) -> None:
        super().__init__(root)
        self.members: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self.inside: defaultdict[str, set[str]] = defaultdict(set)  # folder -> names in it
        for path in zips:
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise zip_error(error, path) from error
            for info in archive.infolist():
                if not info.is_dir():
                    self.add(archive, info)

    def add(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        parts = [part for part in info.filename.split("/") if part not in ("", ".")]
        # The last folder that has a split's name and a class's below: all above it are wrappers.
        splits = [i for i, part in enumerate(parts[:-1]) if split_of(part)]
        first = ([i for i in splits if i < len(parts) - 2] or splits or [0])[-1]
        name = "/".join(parts[first:])
        if any(map(hidden, parts)) or len(parts) > MOST_LEVELS:
            self.notes[DEEP if len(parts) > MOST_LEVELS else HIDDEN].add(name)
            return
        if name in self.members:  # in another folder above, or another zip: both are kept
            above = " ".join([Path(str(archive.filename)).stem, *parts[:first]])
            name = "/".join([*parts[first:-1], f"{above} {parts[-1]}"])
        self.members[name] = archive, info
        while name:
            folder = name.rpartition("/")[0]
            self.inside[folder].add(name)
            name = folder

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        names = sorted(self.inside[folder])
        return [n for n in names if n in self.inside], [n for n in names if n in self.members]

    def size(self, name: str) -> int:
        return self.members[name][1].file_size

    def open(self, name: str) -> Any:
        archive, info = self.members[name]
        return archive.open(info.filename)  # which a message then names

    def load(self, name: str) -> Tensor:
        archive, info = self.members[name]
        where = f"{archive.filename}: {info.filename}"
        try:
            with self.open(name) as file:
                return load_image(file, where)
        except UNREADABLE as error:
            raise zip_error(error, where) from error


def zip_error(error: Exception, where: object) -> DataError:
    fix = "name a folder or a zip that you may read; if this is one, copy or download it again"
    return DataError(f"cannot read a zip: {getattr(error, 'strerror', None) or error}", where, fix)


def listing_of(root: Path) -> Listing:
    """Of a zip, of the zips in a folder that holds no split, or of a folder."""
    if root.is_file():
        return ZipListing(root, [root])
    listing = Listing(root)
    folders, files = listing.entries("")
    zips = [root / name for name in files if name.lower().endswith(".zip")]
    # Zips beside what they were unpacked to would count every image twice.
    unpacked = any(map(split_of, folders))
    if not zips or unpacked:
        return listing
    zipped = ZipListing(root, zips)
    return zipped if any(map(is_image, zipped.members)) else listing


def readable(folder: Path) -> Path:
    """`folder`; DataError if it cannot be listed: its files would be left out without a word."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        fix = "make it readable (its owner: chmod -R u+rX), or move it elsewhere"
        raise DataError("cannot read a folder: Permission denied", folder, fix)
    return folder


def hidden(name: str) -> bool:
    """Of a file or folder, without those above it."""
    return name.startswith(".") or name == "__MACOSX"


def split_of(folder: str) -> str | None:
    """The split that a folder is for, going by its name."""
    return SPLITS.get(folder.rpartition("/")[2].lower())


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def by_folder(name: str) -> list[str]:
    """A key to sort by, so that "ant/2" comes before "ant b/1", as the classes do."""
    return name.split("/")


def some(names: Iterable[str]) -> str:
    """The first names in order, and how many more there are."""
    first = sorted(names)
    more = f" and {len(first) - NAMED:,} more" if len(first) > NAMED else ""
    return ", ".join(map(printable, first[:NAMED])) + more
