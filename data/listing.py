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
ORDER = ("train", "val", "test")
LAYOUT = "train/<class>/*.jpg beside val/ or test/, or one folder for each class"
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # also in a zip
NAMED = 5  # names in a note; the rest is counted

# Why something is left out, in a note before its name.
NO_CLASS = "left out, in no class folder of images"
NO_FILE = "left out, a link that is broken or leads back, or no file"


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
        last = name.rpartition("/")[2]
        hidden = last.startswith(".") or last == "__MACOSX"
        if hidden:
            self.notes["left out, hidden"].add(name)
        return hidden

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """The folders and the files in one folder ("" is the root), by name. Links are followed."""
        try:
            with os.scandir(self.root / folder) as listed:
                found = [(f"{folder}/{e.name}" if folder else e.name, e) for e in listed]
        except OSError as error:
            raise DataError(
                f"cannot list a folder: {error.strerror}",
                (self.root / folder).absolute(),
                f"name a readable folder that holds {LAYOUT}; unpack an archive first",
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
        read = {self.real(""), self.real(folder.rpartition("/")[0])} if folder else set()
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            real = self.real(here)
            # A link to "/" would bring the whole disk in.
            is_link = os.path.islink(self.root / here)  # noqa: PTH114  Path's can raise
            if real in read or (is_link and any(Path(r).is_relative_to(real) for r in read)):
                self.notes[NO_FILE].add(here)
                continue
            read.add(real)
            folders, files = self.entries(here)
            found += files
            waiting += reversed(folders)
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
        parts = info.filename.split("/")
        first = next((i for i, part in enumerate(parts) if split_of(part)), 0)
        name = "/".join(parts[first:])
        self.members[name] = archive, info
        while name:
            folder = name.rpartition("/")[0]
            self.inside[folder].add(name)
            name = folder

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        names = [name for name in sorted(self.inside[folder]) if not self.is_hidden(name)]
        return [n for n in names if n in self.inside], [n for n in names if n in self.members]

    def size(self, name: str) -> int:
        return self.members[name][1].file_size

    def open(self, name: str) -> Any:
        archive, info = self.members[name]
        return archive.open(info)

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
    return ZipListing(root, zips) if zips and not unpacked else listing


def readable(folder: Path) -> Path:
    """`folder`; DataError if it cannot be listed: its files would be left out without a word."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        fix = "make it readable (its owner: chmod -R u+rX), or move it elsewhere"
        raise DataError("cannot read a folder: Permission denied", folder, fix)
    return folder


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
