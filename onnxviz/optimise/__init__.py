"""Images made by optimisation: parameters → picture → transforms → network → objective, and a step on the gradient.

One step is one session run: the picture, its transforms, the network, the objective, the gradient of all of them and
the optimiser's update are one ONNX graph, and parameters and optimiser state stay on the device from step to step.

    machine = Machine(net, objective, size=(256, 256), count=2,            # 2 pictures at once
                      parametrise=Fourier(), transforms=(Window(224, 224, 0.8, 1.2, reach=16),), draws=2,
                      optimiser=Adam(0.05), rules="plain", regularise=(), prune=0)
    for step in machine.run(512, seed=0, start=None, fed={"target": np.array([285, 340])}):
        step.index, step.value (N,), step.terms {label: (N,)}, step.norm (N,), step.seconds
        step.pictures()          # (N, H, W, 3) float32, 0..1: what this step's value was measured on; made when asked
    machine.pictures()           # after the loop (or a break, Ctrl-C, GradientNotFinite): the last good ones
    for step in machine.lbfgs(200, ...):                                     # the same by scipy's L-BFGS
    machine.evaluate(machine.start(rng, pictures), machine.given(fed))       # one value and gradient, no update

The pieces, each a short file:
    parametrise.py   Pixels(): the picture itself, as its difference from the network's mean colour (zero is the
                     network's zero input), in units where black to white is 1; Fourier(): its spectrum, with
                     decorrelated colours and a sigmoid
    transforms.py    Jitter(pixels), Rotate(degrees), Scale(low, high), Pad(pixels), Crop(height, width),
                     Blur(low, high), Window(height, width, low, high, reach): random, linear, each with its adjoint
    entrance.py      from the picture to the network's input (mean, std, order of channels, layout)
    updates.py       Adam(rate), Ascent(rate, norm="mean"|"rms"|"l2"|"none", momentum=0.0); `rate` may be a function
                     of the step number
    regularise.py    the lecture's: Decay(share), Blurring(sigma, every), SmallPixels(percent),
                     SmallContributions(percent); applied after the update, in order
    plan.py          how many pictures of what size, of what parameters, seen how
    views.py         every draw's transforms in front of the network, and the way back
    fit.py           the network with the batch and the size that the plan needs
    assemble.py      all of it as one graph
    machine.py       the compiled graph and its loop
    shot.py          what a technique tells whoever watches it
    lbfgs.py         the same loop driven by scipy's L-BFGS

Objectives are those of onnxviz.objectives. In a term, `layer=None` means the picture before its transforms, as its
difference from the network's mean colour, (N, 3, H, W), black to white being 1. What is fed at run time with one entry
a picture (`target`) is repeated for the draws by the machine. A term over a layer is averaged over the draws.
"""

from __future__ import annotations

from onnxviz.optimise.machine import Machine, Step
from onnxviz.optimise.parametrise import Fourier, Pixels
from onnxviz.optimise.regularise import Blurring, Decay, SmallContributions, SmallPixels
from onnxviz.optimise.transforms import Blur, Crop, Jitter, Pad, Rotate, Scale, Window
from onnxviz.optimise.updates import Adam, Ascent

__all__ = [
    "Adam",
    "Ascent",
    "Blur",
    "Blurring",
    "Crop",
    "Decay",
    "Fourier",
    "Jitter",
    "Machine",
    "Pad",
    "Pixels",
    "Rotate",
    "Scale",
    "SmallContributions",
    "SmallPixels",
    "Step",
    "Window",
]
