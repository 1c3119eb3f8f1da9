"""Images by index, decoded at each use; and all of them in order, decoded in worker processes.

`images[i]` is a uint8 tensor (3, H, W). A tensor (N, 3, H, W) satisfies this protocol too.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from signal import SIGINT
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader

from data.errors import DataError
from data.images import load_image
from data.processes import shielded_from
from data.progress import Progress

Form = Callable[[Tensor], Tensor]  # maps a decoded image, uint8 (3, H, W) -> (3, h, w)


class Images(Protocol):
    """N images by index: each uint8 (3, H, W)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


@dataclass(frozen=True)
class DecodedOnUse:
    """Images that are decoded each time they are used."""

    files: tuple[str, ...]
    form: Callable[[Tensor], Any]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.form(load_image(self.files[index], self.files[index]))


@dataclass(frozen=True)
class MappedImages:
    """Other images, with `form` applied at each use."""

    images: Images
    form: Callable[[Tensor], Any]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.form(self.images[index])


def size_of(image: Tensor) -> tuple[int, int]:
    """Height and width in pixels, upright: a result that workers can send cheaply."""
    return image.shape[1], image.shape[2]


@dataclass(frozen=True)
class OrErrors:
    """Other images, but the error of one that cannot be decoded is returned, not raised."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.images[index]
        except DataError as error:
            return error


def decode_all(images: Images, workers: int, title: str = "decoding") -> Generator[Any]:
    """Yield each of `images` in order, or the DataError that says why it cannot be decoded.

    Decodes in `workers` processes (0: in this one).
    """
    dataset: Any = OrErrors(images)
    loader: Any = DataLoader(
        dataset, batch_size=None, sampler=range(len(images)), num_workers=workers,
        collate_fn=unchanged,
    )  # fmt: skip
    with shielded_from(SIGINT):
        arriving = iter(loader)
    yield from Progress(arriving, title, len(images), delay=1)


def unchanged(image: Any) -> Any:
    """In place of DataLoader's own function, which would turn numbers into tensors."""
    return image
