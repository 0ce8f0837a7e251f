"""Attributions that take one backward pass: the gradient itself, and backpropagation under other rules."""

from __future__ import annotations

from onnxviz.attribution.saliency_job import Found, Job


def gradient(job: Job) -> Found:
    """How far the score moves with each input value.

    Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034.
    """
    scores, found = job.gradient()
    return Found(found, scores)


def input_x_gradient(job: Job) -> Found:
    """The gradient times the input: for a network of straight pieces without biases, exact shares of the score.

    Shrikumar, Greenside, Shcherbina & Kundaje 2016, arXiv:1605.01713.
    """
    scores, found = job.gradient()
    return Found(found * job.x, scores)


def guided(job: Job) -> Found:
    """Backpropagation that lets only positive cotangents through units that are on. Sharp, but nearly blind to the
    weights above (Adebayo et al. 2018): an edge detector for what the lower layers respond to.

    Springenberg, Dosovitskiy, Brox & Riedmiller 2015, arXiv:1412.6806.
    """
    return _by_rules(job, "guided")


def deconvnet(job: Job) -> Found:
    """Backpropagation that lets only positive cotangents through, whether a unit is on or off.

    Zeiler & Fergus 2014, arXiv:1311.2901.
    """
    return _by_rules(job, "deconvnet")


def _by_rules(job: Job, rules: str) -> Found:
    scores, found = job.gradient(rules)
    return Found(found, scores, {"rectifiers": job.gradients(rules).rectifiers})
