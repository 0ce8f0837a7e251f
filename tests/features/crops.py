"""An image set of which everybody can say what belongs together: crops of a few photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("chelsea", "coffee", "rocket", "astronaut")


def write(folder: Path, each: int = 6, edge: int = 160) -> list[Path]:
    """`each` crops of four photos as folder/NAME-0.png..., in natural order."""
    from skimage import data

    random = np.random.default_rng(0)
    paths = []
    for name in NAMES:
        photo = getattr(data, name)()
        side = int(0.7 * min(photo.shape[:2]))
        for number in range(each):
            top, left = (int(random.integers(0, size - side + 1)) for size in photo.shape[:2])
            path = folder / f"{name}-{number}.png"
            crop = Image.fromarray(photo[top : top + side, left : left + side])
            crop.resize((edge, edge), Image.Resampling.LANCZOS).save(path)
            paths.append(path)
    return sorted(paths)


def photo_of(file: str) -> str:
    """The photo that a crop is of."""
    return Path(file).name.split("-")[0]


def noise(count: int = 6, edge: int = 32) -> list[np.ndarray]:
    """Pictures that nothing else is like, (edge, edge, 3) uint8."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (edge, edge, 3), dtype=np.uint8) for _ in range(count)]


def kept(points: np.ndarray, labels: np.ndarray) -> float:
    """The share of points whose nearest neighbour is of their own group."""
    gaps = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    return float(np.mean(labels[gaps.argmin(axis=1)] == labels))
