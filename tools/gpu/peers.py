"""What stands beside onnxviz on the same card: torch, and Captum where it has the technique."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bench import ascent, networks


def network(name: str, path: Path | None, device: str) -> Any:
    """A network as torch's function on the device; float32 without TF32, cuDNN choosing by trial."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    net = networks.module(name, path, device)
    return net.to(device) if isinstance(net, torch.nn.Module) else net


def captum() -> str | None:
    """Captum's version; None where it, or what it needs, is not there."""
    try:
        import captum.attr as found
    except ImportError:
        return None
    del found
    return version("captum")


def passes(
    net: Any, x: np.ndarray, seed: np.ndarray, device: str, *, captum: bool = True
) -> dict[str, Callable[[], Any]]:
    """Forward and gradient of torch, and the gradient by Captum, arrays on the device."""
    import torch

    image, cotangent = (torch.from_numpy(array).to(device) for array in (x, seed))

    def forward() -> None:
        with torch.no_grad():
            net(image)

    def gradient() -> None:
        leaf = image.detach().requires_grad_(True)
        y = net(leaf)
        torch.autograd.grad(y, leaf, cotangent.reshape(y.shape))

    def by_captum() -> None:
        from captum.attr import Saliency

        Saliency(net).attribute(image.detach().requires_grad_(True), target=int(seed[0].argmax()), abs=False)

    found = {"torch forward": forward, "torch gradient": gradient}
    return found | {"Captum gradient": by_captum} if captum else found


def rise(model: Any, x: np.ndarray, target: int, masks: int, batch: int, device: str) -> Any:
    """Petsiuk et al. 2018: random 7×7 grids, enlarged with a random shift, weighted by the score under each."""
    import torch

    image, cells, size = torch.from_numpy(x).to(device), 7, x.shape[-1]
    step = -(-size // cells)
    total = torch.zeros(size, size, device=device)
    with torch.no_grad():
        for start in range(0, masks, batch):
            count = min(batch, masks - start)
            grid = (torch.rand(count, 1, cells + 1, cells + 1, device=device) < 0.5).float()
            wide = torch.nn.functional.interpolate(
                grid, scale_factor=step, mode="bilinear", align_corners=False
            )
            top, left = torch.randint(0, step, (2,)).tolist()
            mask = wide[..., top : top + size, left : left + size]
            scores = torch.softmax(model(image * mask), 1)[:, target]
            total += torch.einsum("n,nhw->hw", scores, mask[:, 0])
    return total.cpu()


def ascent_step(net: Any, model: Any, target: int, device: str) -> Callable[[], None]:
    """A step of the preset lucid."""
    return ascent.lucid_step(net.size, lambda x: model(x)[:, target], 1, device)


def maps(model: Any) -> Callable[[Any], Any]:
    """The last feature maps of EfficientNet-Lite0."""
    return model.extract_features  # type: ignore[no-any-return]


def patches(
    features: Callable[[Any], Any],
    net: Any,
    paths: Sequence[Path],
    device: str,
    batch: int = 32,
    best: int = 9,
) -> Any:
    """The `best` pictures of each channel and where: decoded in threads, maps and choice on the device."""
    import torch

    from onnxviz.image.io import read

    values, where = None, None
    with ThreadPoolExecutor() as pool, torch.no_grad():
        decoded = pool.map(lambda path: net.preprocessing.apply(read(path)), paths)
        waiting: list[np.ndarray] = []
        for number, one in enumerate(decoded, 1):
            waiting.append(one)
            if len(waiting) < batch and number < len(paths):
                continue
            x = torch.from_numpy(np.concatenate([a if a.ndim == 4 else a[None] for a in waiting])).to(device)
            found, place = features(x).flatten(2).max(2)  # (N, C)
            place = place + (number - len(waiting)) * 10_000
            values = found if values is None else torch.cat([values, found])
            where = place if where is None else torch.cat([where, place])
            values, order = values.topk(min(best, len(values)), 0)
            where, waiting = where.gather(0, order), []
    return values.cpu(), where.cpu()
