"""Put the demo's pictures into the gallery of docs/: python3 tools/pictures.py [DEMO FOLDER]

Run after tools/demo.py, in its environment; pictures are made smaller for the web and replaced as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from environment import ROOT, environment

GALLERY = {
    "occlusion": "occlusion-coffee.png",
    "rise": "rise-chelsea.png",
    "attributions": "attributions-few.png",
    "segment": "segment-rocket.png",
    "ascent": "ascent-classes.png",
    "features": "ascent-middle.png",
    "dream": "dream-guided.png",
    "invert": "inversion.png",
    "style": "style-china-sheet.png",
    "textures": "textures.png",
    "fool": "fool.png",
    "filters": "filters.png",
    "activations": "activations-shallow.png",
    "patches": "patches-middle/overview.png",
    "neighbours": "neighbours.png",
    "map": "map-tsne.png",
}
WIDTH = 1100


def main(arguments: list[str]) -> int:
    if os.environ.get("ONNXVIZ_PICTURES") != "1":
        python = environment("demo", ["-e", ".[cpu,demo]"])
        command = [str(python), __file__, *arguments]
        return subprocess.call(command, cwd=ROOT, env={**os.environ, "ONNXVIZ_PICTURES": "1"})
    from PIL import Image

    demo = Path(arguments[0]) if arguments else ROOT / "demo"
    target = ROOT / "docs" / "pictures"
    target.mkdir(parents=True, exist_ok=True)
    for name, source in GALLERY.items():
        with Image.open(demo / source) as picture:
            small = picture.convert("RGB")
            small.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
            # A palette of 256 colours halves the file. Maximum coverage keeps the few strong colours of a map apart,
            # where a median cut spends the palette on the photo and leaves bands.
            small.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2).save(
                target / f"{name}.png", optimize=True
            )
        print(target / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
