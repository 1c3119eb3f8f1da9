"""Decodes every picture before an experiment relies on them: better now than in its third hour."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from signal import SIGINT
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from data.errors import DataError
from data.images import load_image
from data.processes import is_lost_loader, shielded_from


class Verdict(NamedTuple):
    path: Path
    problem: str  # "" = fine
    height: int  # in pixels, upright; 0 where there is a problem
    width: int


@dataclass(frozen=True)
class Verdicts:
    """The verdict on each picture, by number: what worker processes look up."""

    pictures: Sequence[Path]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Verdict:
        path = self.pictures[index]
        try:
            _, height, width = load_image(str(path), str(path)).shape
        except DataError as error:
            return Verdict(path, " ".join(str(error.args[0]).split()), 0, 0)
        return Verdict(path, "", height, width)


def check_pictures(pictures: Sequence[Path], workers: int) -> Generator[Verdict]:
    """A verdict on each picture, in order, after decoding all of it.

    In `workers` processes, or in this one for 0. DataError if a worker is killed from outside.
    """
    verdicts: Any = Verdicts(pictures)
    if not workers or not pictures:
        yield from map(verdicts.__getitem__, range(len(pictures)))
        return
    # A fork of a process with threads may hang.
    loader: Any = DataLoader(
        verdicts, batch_size=None, num_workers=workers, multiprocessing_context=get_context("spawn")
    )
    done = 0
    try:
        with shielded_from(SIGINT):
            arriving = iter(loader)
        for verdict in arriving:
            yield verdict
            done += 1
    except RuntimeError as error:
        if not is_lost_loader(error):
            raise
        raise DataError(
            "a process that decodes pictures was killed, most often because memory ran out",
            f"at one of the {2 * workers} pictures from {pictures[done]}",
            "make room, or use fewer --workers",
        ) from error
