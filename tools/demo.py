"""Set everything up and run every technique on the bundled network and photos: python3 tools/demo.py

Ends with the path of an HTML page (demo/index.html).
"""

from __future__ import annotations

import subprocess
import sys

from environment import ROOT, environment

if __name__ == "__main__":
    python = environment("demo", ["-e", ".[cpu,demo]"])
    sys.exit(
        subprocess.call([str(python), "-m", "onnxviz", "demo", *(sys.argv[1:] or ["-o", "demo"])], cwd=ROOT)
    )
