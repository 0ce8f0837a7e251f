"""`compare`: what changed between two files of one network, which layer did it, why, and what to do.

compare     the whole, part by part; result and resume: what it holds, and what another run takes over
agree       are these files of one network, and do both see the same pictures
match       which value of B is which of A: sides (both files in their normal form), kernels (weights), values (as a
            file computes them, their projections)
answers     agreement, calibration, labels: noise (what noise would do the same), dense (segmenters, detectors)
hybrids     graphs grown of both (graph/graft) and run: local (which layer, weights or calibration, what leaving layers
            in float gains), values (in other units)
why         the figures of each layer: weights, stored (as the file has them)
drift       where both look, and the changed answers
rules       the thresholds; judge: from figures to findings
page        the report, and the lines on a screen
like        a file that is asked by another's layer names
"""
