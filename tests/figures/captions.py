"""The captions of every attribution, by its `method`."""

from onnxviz.attribution import occlusion, rise
from onnxviz.attribution.methods import METHODS

CAPTIONS = {name: row.caption for name, row in METHODS.items()}
CAPTIONS |= {"occlusion": occlusion.CAPTION, "rise": rise.CAPTION}
