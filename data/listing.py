"""Lists the files of a folder, or of zips, and notes the name of everything that is left out."""

import contextlib
import os
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from data.errors import DataError, printable
from data.images import OTHERS, load_image, other_kind, starts_as_image

# Those of torchvision.datasets.folder (tested); importing it takes seconds in every worker.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SPLIT_ORDER = ("train", "val", "test")
LAYOUT = "train/<class>/*.jpg beside val/ or test/, or one folder per class"
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # also in a zip
NAMED = 5  # names listed in a note; the others are counted

# Why something is left out: the start of a note, before the names.
NO_CLASS = "left out, not in a class folder with images"
NO_FILE = "left out, a link that is broken or circular, or not a regular file"
HIDDEN = "left out, hidden or of the system"
DEEP = "left out, nested too deeply"
BY_CONTENT = "read by content, not named .jpg, .png ..."
# Folders and files of operating systems and NAS devices: thumbnails, indexes, deleted files.
SYSTEM = (
    "__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@tmp",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "thumbs.db",
    "ehthumbs.db", "desktop.ini", "icon\r", "thumbs", "thumbnails", "_thumbnails", "@__thumb",
)  # fmt: skip
MOST_LEVELS = 50  # of nested folders in a zip: each takes time


class Listing:
    """The folders and files of one root. Names are relative to it, with slashes on every system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.taken: list[str] = []  # sentences: what was taken for what
        self.notes: defaultdict[str, set[str]] = defaultdict(set)  # reason -> names

    def sentences(self) -> tuple[str, ...]:
        """What was taken; and a note per reason, "left out, a copy of another image (1): a.jpg"."""
        notes = sorted(self.notes.items(), reverse=True)
        left = (f"{why} ({len(names):,}): {some(names)}" for why, names in notes if names)
        return (*map(printable, self.taken), *left)

    def error(self, what: str, fix: str = f"expected: {LAYOUT}") -> DataError:
        """A DataError about the root."""
        return DataError(what, self.root.absolute(), fix)

    def advice(self, fix: str) -> str:
        """What to do with the files that were left out, if their kind is known; else `fix`."""
        return next((what for _, kind, what in OTHERS if f"left out, {kind}" in self.notes), fix)

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Folders and files in one folder ("" is the root), sorted by name. Links are followed."""
        try:
            with os.scandir(self.root / folder) as scanned:
                listed = [(f"{folder}/{e.name}" if folder else e.name, e) for e in scanned]
        except OSError as error:
            raise DataError(
                f"cannot list a folder: {error.strerror}",
                (self.root / folder).absolute(),
                f"give a readable folder with {LAYOUT}"
                + "; unpack an archive first" * (self.root / folder).is_file(),
            ) from error
        folders, files = [], []
        for name, entry in listed:
            if hidden(entry.name):
                self.notes[HIDDEN].add(name)
                continue
            whole = not entry.is_symlink() or os.path.exists(entry)  # noqa: PTH110  Path's can raise
            if whole and entry.is_dir():
                folders.append((entry.is_symlink(), name))
            elif whole and entry.is_file():
                files.append(name)
            else:
                self.notes[NO_FILE].add(name)
        # Links last, so that a folder is read itself and the link to it is noted.
        return [name for _, name in sorted(folders)], sorted(files)

    def files(self, folder: str) -> list[str]:
        """Every file at any depth below `folder`, sorted; each real folder is read once."""
        names: list[str] = []
        read: set[str] = set()
        over = {self.real(""), self.real(folder.rpartition("/")[0])} if folder else set()
        waiting = [(folder, over)]  # with the real paths of all folders above
        while waiting:
            here, above = waiting.pop()
            real = self.real(here)
            # A link to "/" would add the whole disk.
            if real in read or any(Path(one).is_relative_to(real) for one in above):
                self.notes[NO_FILE].add(here)
                continue
            read.add(real)
            folders, files = self.entries(here)
            names += files
            waiting += [(inner, {*above, real}) for inner in reversed(folders)]
        return sorted(names, key=by_folder)

    def real(self, name: str) -> str:
        """The real path of a file or folder: absolute, links resolved."""
        return os.path.realpath(self.root / name)

    def images(self, folder: str) -> list[str]:
        """The images at any depth below a class folder; everything else is noted."""
        images = []
        for name in self.files(folder):
            why = "" if is_image(name) else self.kind(name)
            if why:
                self.notes[why].add(name)
            if why in ("", BY_CONTENT):
                images.append(name)
        if folder and not images:
            self.notes[NO_CLASS].add(folder)
        return images

    def kind(self, name: str) -> str:
        """The note about a file that is not named as an image: its first bytes show its kind."""
        start = b""
        with contextlib.suppress(*UNREADABLE), self.open(name) as file:
            start = file.read(64)
        if starts_as_image(start, name):
            return BY_CONTENT
        other = other_kind(start)
        return f"left out, {other[0]}" if other else "left out, not .jpg, .png ..."

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.root / name).stat().st_size

    def open(self, name: str) -> Any:
        """Open a file to read its bytes."""
        return (self.root / name).open("rb")

    def load(self, name: str) -> Tensor:
        """Decode an image: uint8 (3, H, W)."""
        return load_image(self.root / name)


class ZipListing(Listing):
    """Zips, read as if unpacked into one folder, without the folders above train/.

    Of train.zip and test.zip without train/ and test/, each is read as a folder of its name.
    """

    def __init__(self, root: Path, zips: Sequence[Path]) -> None:
        super().__init__(root)
        self.members: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self.inside: defaultdict[str, set[str]] = defaultdict(set)  # folder -> names in it
        named = {"train"} < {split_in(path.stem)[0] for path in zips} - {None}
        for path in zips:
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise zip_error(error, path) from error
            for info in archive.infolist():
                if not info.is_dir():
                    self.add(archive, info, [path.stem] if named else [])

    def add(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, given: list[str]) -> None:
        """Add one file of a zip, below the folder `given` if it is in no folder of a split.

        Hidden and deeply nested files are noted instead.
        """
        parts = [part for part in info.filename.split("/") if part not in ("", ".")]
        # A name starts at the last split folder with a class folder below; above are wrappers.
        splits = [i for i, part in enumerate(parts[:-1]) if part.lower() in SPLITS]
        first = ([i for i in splits if i < len(parts) - 2] or splits or [0])[-1]
        if given and not splits:
            parts = [*given, *parts]
            self.notes["taken as a split, the name of a zip"].update(given)
        name = "/".join(parts[first:])
        if any(map(hidden, parts)) or len(parts) > MOST_LEVELS:
            self.notes[DEEP if len(parts) > MOST_LEVELS else HIDDEN].add(name)
            return
        if name in self.members:  # the same below another wrapper or in another zip: keep both
            above = " ".join([Path(str(archive.filename)).stem, *parts[:first]])
            name = "/".join([*parts[first:-1], f"{above} {parts[-1]}"])
        self.members[name] = archive, info
        while name:
            folder = name.rpartition("/")[0]
            self.inside[folder].add(name)
            name = folder

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Folders and files in one folder ("" is the root), sorted by name."""
        names = sorted(self.inside[folder])
        return [n for n in names if n in self.inside], [n for n in names if n in self.members]

    def size(self, name: str) -> int:
        """Bytes of a file, unpacked."""
        return self.members[name][1].file_size

    def open(self, name: str) -> Any:
        """Open a file to read its bytes."""
        archive, info = self.members[name]
        return archive.open(info.filename)  # by name, which error messages then contain

    def load(self, name: str) -> Tensor:
        """Decode an image: uint8 (3, H, W)."""
        archive, info = self.members[name]
        where = f"{archive.filename}: {info.filename}"
        try:
            with self.open(name) as file:
                return load_image(file, where)
        except UNREADABLE as error:
            raise zip_error(error, where) from error


def split_in(folder: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that one word of a folder's name says, and the others: seg_train: train, (seg, _).

    The split is None if no word says one, or if several do.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+", folder.rpartition("/")[2])
    found = [SPLITS[word.lower()] for word in words if word.lower() in SPLITS]
    others = tuple("_" if word.lower() in SPLITS else word.lower() for word in words)
    return (found[0] if len(found) == 1 else None), others if len(others) > 1 else ()


def zip_error(error: Exception, where: object) -> DataError:
    """A DataError about a zip, or a file in one, that cannot be read."""
    fix = "give a folder or a zip that you may read; if this is one, copy or download it again"
    return DataError(f"cannot read a zip: {getattr(error, 'strerror', None) or error}", where, fix)


def listing_of(root: Path) -> Listing:
    """List a zip, the zips in a folder without unpacked images, or a folder."""
    if root.is_file():
        return ZipListing(root, [root])
    listing = Listing(root)
    folders, files = listing.entries("")
    zips = [root / name for name in files if name.lower().endswith(".zip")]
    # Zips beside their unpacked content would count every image twice.
    if not zips or any(
        is_image(name) for folder in folders for name in Listing(root).files(folder)
    ):
        return listing
    zipped = ZipListing(root, zips)
    is_zipped = any(is_image(name) or zipped.kind(name) == BY_CONTENT for name in zipped.members)
    return zipped if is_zipped else listing


def readable(folder: Path) -> Path:
    """Return `folder`; DataError if it cannot be listed, which would silently omit its files."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        fix = "make it readable (its owner: chmod -R u+rX), or move it elsewhere"
        raise DataError("cannot read a folder: Permission denied", folder, fix)
    return folder


def hidden(name: str) -> bool:
    """True if a file or folder is hidden or in SYSTEM, judging by its own name (no slashes)."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    """True if the name has one of EXTENSIONS."""
    return name.lower().endswith(EXTENSIONS)


def by_folder(name: str) -> list[str]:
    """Sort key by folder, then file: "ant/2" comes before "ant b/1", as "ant" before "ant b"."""
    return name.split("/")


def some(names: Iterable[str]) -> str:
    """The first NAMED names in order, and how many more there are."""
    first = sorted(names)
    more = f" and {len(first) - NAMED:,} more" if len(first) > NAMED else ""
    return ", ".join(map(printable, first[:NAMED])) + more
