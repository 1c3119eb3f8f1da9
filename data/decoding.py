"""Images by index, decoded at each use; and whole lists of images, decoded in worker processes.

`images[i]` is a uint8 tensor (3, H, W). A tensor (N, 3, H, W) satisfies this protocol too.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from signal import SIGINT
from typing import Any, Protocol, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader

from data.errors import DataError
from data.images import load_image
from data.processes import is_lost_loader, shielded_from
from data.progress import Progress

Form = Callable[[Tensor], Tensor]  # maps a decoded image, uint8 (3, H, W) -> (3, h, w)
Result = TypeVar("Result")


class Images(Protocol):
    """N images by index: each uint8 (3, H, W)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


@dataclass(frozen=True)
class DecodedOnUse:
    """Images that are decoded each time they are used."""

    files: tuple[str, ...]
    form: Form

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.form(load_image(self.files[index], self.files[index]))


@dataclass(frozen=True)
class MappedImages:
    """Other images, with `form` applied at each use."""

    images: Images
    form: Form

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.form(self.images[index])


def size_of(image: Tensor) -> tuple[int, int]:
    """Height and width in pixels, upright: a result that workers can send cheaply."""
    return image.shape[1], image.shape[2]


def decode_or_error(form: Callable[[Tensor], Result], file: str) -> Result | DataError:
    """Decode in a worker process: the error of an undecodable image is returned, not raised."""
    try:
        return form(load_image(file, file))
    except DataError as error:
        return error


def decode_all(
    files: Sequence[str], form: Callable[[Tensor], Result], workers: int, title: str = "decoding"
) -> Generator[Result | DataError]:
    """Yield `form` of each image in order, or the error that says why it cannot be decoded.

    Decodes in `workers` processes (0: in this one). Raises DataError if one of them is killed.
    """
    decode = partial(decode_or_error, form)
    arriving: Iterator[Result | DataError] = map(decode, files)
    if workers and files:
        loader: Any = DataLoader(files, batch_size=None, num_workers=workers, collate_fn=decode)  # type: ignore[arg-type]
        with shielded_from(SIGINT):
            arriving = iter(loader)
    done = 0
    try:
        for image in Progress(arriving, title, len(files), delay=1):
            yield image
            done += 1
    except RuntimeError as error:
        if not is_lost_loader(error):
            raise
        raise DataError(
            "a process that decodes images was killed, most likely because memory ran out",
            f"at one of the {2 * workers} images from {files[done]}",
            "free some memory, or use fewer --workers",
        ) from error
