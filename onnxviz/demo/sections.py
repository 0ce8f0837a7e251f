"""The demo's sections: one function a technique."""

from __future__ import annotations

from collections.abc import Callable

from onnxviz.demo.attribution import activation_maps, cut_out, gradient_attributions
from onnxviz.demo.page import Picture, Section
from onnxviz.demo.photos import Stage
from onnxviz.demo.synthesis import DREAMS, MADE, fooling, painted, textures

# Layers of the bundled network, from shallow to deep, whose channels a reader recognises something in.
_SHALLOW = "stem.relu6"
_MIDDLE = "blocks.5.expand.relu6"
_DEEP = "head.relu6"
# Channels that like something with a name: faces, text, stars, bricks, coins; cats, motorcycles, rockets, cups.
_MIDDLE_CHANNELS = (2, 36, 5, 66, 103, 35, 108, 138)
_DEEP_CHANNELS = (4, 398, 1053, 177, 436, 961, 1116, 46)


def look(stage: Stage) -> Section:
    """What the network is made of"""
    import onnxviz

    found = onnxviz.inspect(stage.net)
    return Section(
        anchor="inspect",
        title="Inspect",
        question="What is in this file?",
        text="Every layer with its shape, parameters, multiply–accumulates and receptive field: the square of input "
        "pixels that one unit of the layer can see, computed from the graph's own attributes.",
        command="onnxviz inspect efficientnet-lite0",
        listing="\n".join(found.lines()),
    )


def predictions(stage: Stage) -> Section:
    """What the network says"""
    rows = [("photo", "most probable classes")]
    for photo in stage.subjects:
        best = stage.net.predict(photo.path, top=3)[0]
        rows.append((photo.name, ", ".join(f"{item.label} {item.probability:.0%}" for item in best)))
    return Section(
        anchor="predict",
        title="Predict",
        question="What does it say about these photos?",
        text="How a picture becomes the network's input stands in the file's own metadata; otherwise it is said once, "
        "with --preprocess.",
        command=f"onnxviz predict efficientnet-lite0 {stage.original()}",
        table=[tuple(row) for row in rows],
    )


def first_filters(stage: Stage) -> Section:
    """Filters of the first layer"""
    import onnxviz

    path = onnxviz.filters(stage.net).save(stage.file("filters.png"))
    deep = onnxviz.filters(stage.net, "blocks.1.expand").save(stage.file("filters-deeper.png"))
    return Section(
        anchor="filters",
        title="Filters",
        question="What does the first layer look for?",
        text="First-layer weights act on the pixels themselves, so they can be shown as small colour pictures: edges "
        "at several angles, and pairs of opponent colours. Deeper weights act on channels and say less to the eye.",
        command="onnxviz filters efficientnet-lite0 -o filters.png",
        pictures=[
            Picture(path, "The 32 filters of the first convolution, each on its own scale and all on one."),
            Picture(deep, "A deeper convolution (1×1): output channels as rows, input channels as columns."),
        ],
    )


def feature_maps(stage: Stage) -> Section:
    """Feature maps"""
    import onnxviz

    pictures = []
    for layer, name in ((_SHALLOW, "shallow"), (_MIDDLE, "middle")):
        result = onnxviz.activations(stage.net, stage.subject.path, layer)
        path = result.save(stage.file(f"activations-{name}.png"))
        pictures.append(Picture(path, f"Layer {layer}: bright where the channel answers."))
    return Section(
        anchor="activations",
        title="Feature maps",
        question="What does each channel make of one photo?",
        text="Early maps still look like the photo, seen through one filter each. Further in they become coarse and "
        "sparse: a channel answers in a few places and is silent elsewhere.",
        command=f"onnxviz activations efficientnet-lite0 {stage.original()} --layer {_SHALLOW} -o maps.png",
        pictures=pictures,
    )


def best_patches(stage: Stage) -> Section:
    """Maximally activating patches"""
    import onnxviz

    pictures = []
    for layer, name, channels in ((_MIDDLE, "middle", _MIDDLE_CHANNELS), (_DEEP, "deep", _DEEP_CHANNELS)):
        result = onnxviz.patches(stage.net, stage.crops, layer, channel=channels, progress=stage.progress)
        result.save(stage.file(f"patches-{name}"), progress=stage.progress)
        overview = stage.file(f"patches-{name}") / "overview.png"
        pictures.append(
            Picture(overview, f"Layer {layer}: the nine patches that each of eight channels likes best.")
        )
    count = sum(1 for _ in stage.crops.iterdir())
    return Section(
        anchor="patches",
        title="Maximally activating patches",
        question="What excites a channel most, in a whole image set?",
        text=f"{count} pictures through the network; for each channel the places that excite it most, cut out exactly "
        "as its receptive field covers them. The maximum and its place are found inside the graph, so memory does not "
        "grow with the number of pictures.",
        command=f"onnxviz patches efficientnet-lite0 photos/ --layer {_MIDDLE} -o patches/",
        pictures=pictures,
    )


def hidden(stage: Stage) -> Section:
    """Occlusion"""
    import onnxviz

    pictures = []
    for photo in stage.subjects[:4]:
        result = onnxviz.occlusion(stage.net, photo.path, progress=stage.progress)
        path = result.save(stage.file(f"occlusion-{photo.name}.png"))
        pictures.append(Picture(path, f"{photo.name}: deeper where hiding costs more of {result.label!r}."))
    return Section(
        anchor="occlusion",
        title="Occlusion",
        question="Which part of the photo does the answer rest on?",
        text="A grey square slides over the photo, and the fall in the class's probability is written down where it "
        "stood. The occluded pictures are made inside the graph from window positions: no image travels twice.",
        command=f"onnxviz occlusion efficientnet-lite0 {stage.original()} -o occlusion.png",
        pictures=pictures,
    )


def random_masks(stage: Stage) -> Section:
    """RISE"""
    import onnxviz

    pictures = []
    for photo in stage.subjects[:2]:
        result = onnxviz.rise(stage.net, photo.path, seed=stage.seed, progress=stage.progress)
        path = result.save(stage.file(f"rise-{photo.name}.png"))
        pictures.append(
            Picture(path, f"{photo.name}: how probable {result.label!r} stays when this place is seen.")
        )
    return Section(
        anchor="rise",
        title="RISE",
        question="The same question, asked with thousands of random masks.",
        text="Random soft masks hide half of the photo at a time; each pixel gets the mean probability over the masks "
        "that let it through (Petsiuk et al. 2018). Masks, too, are made inside the graph.",
        command=f"onnxviz rise efficientnet-lite0 {stage.original()} -o rise.png",
        pictures=pictures,
    )


def near_pictures(stage: Stage) -> Section:
    """Nearest neighbours"""
    import onnxviz

    result = onnxviz.neighbours(stage.net, stage.crops, k=7, seed=stage.seed, progress=stage.progress)
    path = result.save(stage.file("neighbours.png"))
    return Section(
        anchor="neighbours",
        title="Nearest neighbours",
        question="Which pictures are the same thing to the network?",
        text="The last hidden layer as coordinates: pictures that lie close together there are alike in what they "
        "show, not in their pixels. Each row begins with a query.",
        command="onnxviz neighbours efficientnet-lite0 photos/ -o neighbours.png",
        pictures=[
            Picture(path, "Queries on the left, then their nearest neighbours with distances.", wide=True)
        ],
    )


def maps(stage: Stage) -> Section:
    """Maps of the last hidden layer"""
    import onnxviz

    pictures = []
    for method, name in (("tsne", "t-SNE"), ("pca", "PCA")):
        result = onnxviz.map(stage.net, stage.crops, method=method, seed=stage.seed, progress=stage.progress)
        path = result.save(stage.file(f"map-{method}.png"))
        pictures.append(Picture(path, f"{name} of the last hidden layer.", wide=True))
    return Section(
        anchor="map",
        title="Maps",
        question="How does the network arrange a whole image set?",
        text="The last hidden layer brought down to two dimensions, as points and as pictures on a grid on which none "
        "covers another. t-SNE keeps neighbourhoods, PCA keeps the large distances.",
        command="onnxviz map efficientnet-lite0 photos/ --method tsne -o map.png",
        pictures=pictures,
    )


SECTIONS: tuple[Callable[[Stage], Section], ...] = (
    hidden,
    random_masks,
    gradient_attributions,
    activation_maps,
    cut_out,
    fooling,
    textures,
    painted,
    *MADE,
    *DREAMS,
    first_filters,
    feature_maps,
    best_patches,
    near_pictures,
    maps,
    predictions,
    look,
)
