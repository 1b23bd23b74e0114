"""Images of every size that every machine has: letters from the fonts that matplotlib ships.

DejaVu, STIX and Computer Modern, 22 faces, the 62 letters and digits of ASCII, each at several
sizes, cropped to the ink: real glyphs in their native sizes and aspect ratios, from an l to a W.
The class is the character. There is nothing to download: matplotlib comes with the train extra.
"""

import functools
import hashlib
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
SIZES = (10, 12, 14, 17, 20, 24, 28, 34, 40)  # pixels per em
NOT_LETTERS = ("LastResort", "cmex10", "cmsy10")  # they map ASCII to something else
VALIDATION_SHARE = 10  # one image in 10, by the hash of its name


@dataclass(frozen=True)
class Glyphs:
    """Images f32[height, width] in [0, 1], white on black, and their classes.

    Attributes:
        train, validation: (images, labels) each, labels index CHARACTERS.
        sha256: of the names and pixels of all images.
    """

    train: tuple[list[np.ndarray], np.ndarray]
    validation: tuple[list[np.ndarray], np.ndarray]
    sha256: str


@functools.cache
def load(sizes: tuple[int, ...] = SIZES) -> Glyphs:
    """Renders the set, in about a second; the same pixels with the same version of matplotlib."""
    digest = hashlib.sha256()
    parts: dict[bool, list[tuple[np.ndarray, int]]] = {True: [], False: []}
    for path in faces():
        for size in sizes:
            for label, image in enumerate(_rendered(path, size)):
                name = f"{path.name} {size} {CHARACTERS[label]}"
                digest.update(f"{name} {image.shape}\0".encode() + image.tobytes())
                held_out = hashlib.sha256(name.encode()).digest()[0] % VALIDATION_SHARE == 0
                parts[held_out].append((image.astype(np.float32) / 255, label))

    def columns(pairs):
        return [image for image, _ in pairs], np.array([label for _, label in pairs], np.int32)

    return Glyphs(columns(parts[False]), columns(parts[True]), digest.hexdigest())


def faces() -> list[Path]:
    """The fonts of matplotlib that have every character, by name."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = sorted(p for p in folder.glob("*.ttf") if not p.name.startswith(NOT_LETTERS))
    needed = set(map(ord, CHARACTERS))
    return [path for path in found if needed <= FT2Font(str(path)).get_charmap().keys()]


def _rendered(path: Path, size: int) -> list[np.ndarray]:
    """Every character of a font at a size, u8[height, width], cropped to the ink."""
    from matplotlib.ft2font import FT2Font, LoadFlags

    font = FT2Font(str(path))
    font.set_size(size, 72)  # points of 1/72 inch at 72 dots per inch: pixels
    images = []
    for character in CHARACTERS:
        font.clear()
        font.set_text(character, flags=LoadFlags.NO_HINTING)
        font.draw_glyphs_to_bitmap(antialiased=True)
        image = np.array(font.get_image())
        rows, cols = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        images.append(image[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])
    return images
