"""Drawing: results, grids, maps and pages as pictures, on Pillow. Nothing here computes what it shows."""
