"""The demo's page, a row for each section: what is asked, in words, and what makes its pictures (`sections.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxviz.auditing.report.page import Section, Text
from onnxviz.demo import sections
from onnxviz.demo.photos import Stage
from onnxviz.demo.sections import Shown


@dataclass(frozen=True)
class Topic:
    """A row: the words of a section, as its `Section` has them, what makes the rest, and the page that says more."""

    anchor: str
    title: str
    question: str
    text: str
    command: str
    make: Callable[[Stage], Shown]
    link: str = ""

    def section(self, stage: Stage) -> Section:
        """Run it."""
        shown = self.make(stage)
        command = self.command
        if "{photos}" in command:
            named = [stage.original(photo) for photo in shown.originals or [stage.subject]]
            command = command.replace("{photos}", " ".join(named))
        words = Text(self.text.format(**shown.words), command, link=self.link)
        return Section(self.title, [words, *shown.blocks], self.question, self.anchor)


TOPICS: tuple[Topic, ...] = (
    Topic(
        "report",
        "A page of your photos",
        "What does the network say of these photos, how sure is it, and which does it take for alike?",
        "One command makes a page of any network and any photos. A line drawn around points of the map leaves "
        "their photos alone in the grid; a photo opens with its answers and with maps for the answer and the class "
        "that competes with it. The page itself stands beside this one, with its table, photos.csv.",
        "onnxviz report efficientnet-lite0 originals/ --methods grad-cam,smoothgrad -o report",
        sections.album,
        "report/report.html",
    ),
    Topic(
        "audit",
        "Audit",
        "May this file ship? A verdict with evidence, for a file whose makers cannot be asked.",
        "Every check says what it measured, its threshold and what it cannot see; one that did not run is never called "
        "clean. The file alone is enough for a first look; photos allow more, their true classes most. The whole "
        "report stands beside this page, with SARIF and JUnit for a pipeline.",
        "onnxviz audit efficientnet-lite0 photos/ --fail-on high -o audited",
        sections.audited,
        "audited/report.html",
    ),
    Topic(
        "occlusion",
        "Occlusion",
        "Which part of the photo does the answer rest on?",
        "A grey square slides over the photo, and the fall in the class's probability is written down where "
        "it stood. The occluded pictures are made inside the graph from window positions: no image travels "
        "twice.",
        "onnxviz occlusion efficientnet-lite0 {photos} -o occlusion.png",
        sections.photos("occlusion", 4, "{name}: deeper where hiding costs more of {label!r}."),
    ),
    Topic(
        "rise",
        "RISE",
        "The same question, asked with thousands of random masks.",
        "Random soft masks hide half of the photo at a time; each pixel gets the mean probability over the "
        "masks that let it through (Petsiuk et al. 2018). Masks, too, are made inside the graph.",
        "onnxviz rise efficientnet-lite0 {photos} -o rise.png",
        sections.photos("rise", 2, "{name}: how probable {label!r} stays when this place is seen."),
    ),
    Topic(
        "attributions",
        "Gradient attributions",
        "Which pixels move the score? One question, and what many methods answer.",
        "ONNX Runtime has no gradients at inference: onnxviz differentiates the graph into another graph of "
        "standard operators, and every row below is read off it. Gradients (above) resolve single pixels, "
        "class activation maps (below) the places of the last layer. Not all of them can be trusted alike: "
        "guided backprop and the deconvnet look sharp, but hardly change when the upper layers' weights are "
        "random, and the deconvnet of a network without pooling shows mostly its strides.",
        "onnxviz saliency efficientnet-lite0 {photos} --method all -o attributions.png",
        sections.attributions,
    ),
    Topic(
        "cam",
        "Class activation maps",
        "Where does a deep layer find what speaks for the class, and where for this class rather than that?",
        "A layer's channels, added up by what they mean to the class. The backward walk stops at the layer, "
        "so a map costs hardly more than a forward pass. At the last layer all methods say nearly the same "
        "(above); further up they part: HiResCAM weighs each place by its own gradient and shows what was "
        "used there, Grad-CAM spreads a channel's mean gradient over all its places. Any objective can be "
        "explained, also a difference of two classes.",
        "onnxviz cam efficientnet-lite0 {photos} --method hirescam --signed --objective \"logit('Egyptian "
        "cat') - logit('tiger cat')\" -o cam.png",
        sections.cams,
    ),
    Topic(
        "segment",
        "Segmentation without labels",
        "Can a network that only ever saw labels outline the object?",
        "The largest values of the map are taken for the object and the smallest for the ground; GrabCut, a "
        "mixture of colours on each side and a minimal cut through the grid of pixels, finds the border "
        "between them (Simonyan et al. 2014). The network never saw a mask.",
        "onnxviz segment efficientnet-lite0 {photos} -o object.png",
        sections.photos("segment", 4, "{name}: what {label!r} was seen in."),
    ),
    Topic(
        "fool",
        "Fooling images",
        "How little must change for another answer?",
        "Steps along the gradient by the pixels until the network is sure of a class that is not there, "
        "then back as far as it stays so. What counts is the rounded 8-bit picture: the saved file fools as "
        "it is. With PGD, {fooled} of {images} photos become a lemon by changing no pixel by more than "
        "{bound} of 255 grey levels.",
        "onnxviz fool efficientnet-lite0 {photos} --target toaster --confidence 0.9 -o fool.png",
        sections.fooling,
    ),
    Topic(
        "compare",
        "fp32 and int8",
        "What did quantisation do to the network, which layer did it, and what is to be done?",
        "The network was quantised to 8 bits by ONNX Runtime's own tools, calibrated on these photos. Layers of the "
        "two files find each other by their weights and values, not by their names; each layer is put alone into "
        "the float network, to see how far the answers move; and what putting layers back to float would gain "
        "was tried.",
        "onnxviz compare efficientnet-lite0 efficientnet-lite0.int8.onnx photos/ -o compared",
        sections.compared,
        "compared/report.html",
    ),
    Topic(
        "texture",
        "Textures",
        "Can a texture be continued from its own pieces, or from what a network sees in it?",
        "The first two look for pieces of the source that fit what is there already: nearest sets one pixel "
        "at a time from the neighbourhood that matches best (Efros & Leung 1999), quilt lays whole blocks "
        "and cuts along the path where they differ least (Efros & Freeman 2001). The last starts from noise "
        "and makes the network's features go together as in the source, whatever stands where (Gatys, Ecker "
        "& Bethge 2015).",
        "onnxviz texture efficientnet-lite0 texture-source.png --method nearest --size 192x192 -o texture.png",
        sections.textures,
    ),
    Topic(
        "style-apply",
        "Feed-forward style networks",
        "Can a network paint at a glance?",
        "A style network is trained once, on any pictures, against what another network sees: here "
        "EfficientNet-Lite0, whose gradient graph moved the painter's weights (style-train; Johnson et al. "
        "2016). It then paints pictures of any size in one pass. Any ONNX file from a picture to a picture "
        "will do.",
        "onnxviz style-apply tissue {photos} -o painted.png",
        sections.painted,
    ),
    Topic(
        "ascent",
        "Class visualisation",
        "What does the network think these classes look like?",
        "From noise, a picture is changed step by step so that one class score rises. It is moved as a "
        "spectrum with decorrelated colours, and shown to the network shifted, scaled, turned and blurred "
        "at random: only what survives that is drawn. Picture, transforms, network, gradient and optimiser "
        "are one ONNX graph.",
        "onnxviz ascent efficientnet-lite0 --target volcano -o volcano.png",
        sections.classes,
    ),
    Topic(
        "ascent-features",
        "Feature visualisation",
        "What does each channel look for?",
        "The same for single channels: these are the channels whose best patches of real photos stand "
        "above, or below, on this page. With --channel all, a page of every channel of a layer.",
        "onnxviz ascent efficientnet-lite0 --layer blocks.5.expand --channel 2 -o channel.png",
        sections.channels,
    ),
    Topic(
        "dream",
        "DeepDream",
        "What does a layer see in a photo, if it may exaggerate?",
        "Step by step the photo is changed so that a layer answers more, at several sizes from small to "
        "large. What the layer looks for appears where the photo has something like it (Mordvintsev et al. "
        "2015).",
        "onnxviz dream efficientnet-lite0 {photos} --layer blocks.7.add -o dream.png",
        sections.dreams,
    ),
    Topic(
        "invert",
        "Feature inversion",
        "What does a layer still know of the photo?",
        "Pictures are sought, from noise, that a layer cannot tell from the photo (Mahendran & Vedaldi "
        "2015). Early layers keep nearly everything; deep ones know what and roughly where, but no longer "
        "how it looked.",
        "onnxviz invert efficientnet-lite0 {photos} --layer blocks.10.add -o inverted.png",
        sections.inversions,
    ),
    Topic(
        "texture-gram",
        "Textures from the network",
        "What is left of a photo if only its textures count?",
        "From noise, a picture is made whose channels go together as those of the photo do, whatever stands "
        "where (Gatys, Ecker & Bethge 2015): Gram matrices of five layers, matched by L-BFGS.",
        "onnxviz texture efficientnet-lite0 {photos} --method gram -o texture.png",
        sections.gram_textures,
    ),
    Topic(
        "style",
        "Style transfer",
        "How would one picture look in the manner of another?",
        "The activations of one layer keep what stands where, the Gram matrices of five bring the other "
        "picture's colours, strokes and grain (Gatys, Ecker & Bethge 2016). No layer was named: they are "
        "chosen by stride.",
        "onnxviz style efficientnet-lite0 {photos} -o painted.png",
        sections.styles,
    ),
    Topic(
        "filters",
        "Filters",
        "What does the first layer look for?",
        "First-layer weights act on the pixels themselves, so they can be shown as small colour pictures: "
        "edges at several angles, and pairs of opponent colours. Deeper weights act on channels and say "
        "less to the eye.",
        "onnxviz filters efficientnet-lite0 -o filters.png",
        sections.filters,
    ),
    Topic(
        "activations",
        "Feature maps",
        "What does each channel make of one photo?",
        "Early maps still look like the photo, seen through one filter each. Further in they become coarse "
        "and sparse: a channel answers in a few places and is silent elsewhere.",
        "onnxviz activations efficientnet-lite0 {photos} --layer stem.relu6 -o maps.png",
        sections.activations,
    ),
    Topic(
        "patches",
        "Maximally activating patches",
        "What excites a channel most, in a whole image set?",
        "{count} pictures through the network; for each channel the places that excite it most, cut out "
        "exactly as its receptive field covers them. The maximum and its place are found inside the graph, "
        "so memory does not grow with the number of pictures.",
        "onnxviz patches efficientnet-lite0 photos/ --layer blocks.5.expand.relu6 -o patches/",
        sections.patches,
    ),
    Topic(
        "neighbours",
        "Nearest neighbours",
        "Which pictures are the same thing to the network?",
        "The last hidden layer as coordinates: pictures that lie close together there are alike in what "
        "they show, not in their pixels. Each row begins with a query.",
        "onnxviz neighbours efficientnet-lite0 photos/ -o neighbours.png",
        sections.neighbours,
    ),
    Topic(
        "map",
        "Maps",
        "How does the network arrange a whole image set?",
        "The last hidden layer brought down to two dimensions, as points and as pictures on a grid on which "
        "none covers another. t-SNE keeps neighbourhoods, PCA keeps the large distances.",
        "onnxviz map efficientnet-lite0 photos/ --method tsne -o map.png",
        sections.maps,
    ),
    Topic(
        "predict",
        "Predict",
        "What does it say about these photos?",
        "How a picture becomes the network's input stands in the file's own metadata; otherwise it is said "
        "once, with --preprocess.",
        "onnxviz predict efficientnet-lite0 {photos}",
        sections.predictions,
    ),
    Topic(
        "inspect",
        "Inspect",
        "What is in this file?",
        "Every layer with its shape, parameters, multiply–accumulates and receptive field: the square of "
        "input pixels that one unit of the layer can see, computed from the graph's own attributes.",
        "onnxviz inspect efficientnet-lite0",
        sections.inspection,
    ),
)
