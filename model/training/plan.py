"""What a run is to be: default, then recipe, then checkpoint, then what the user gave."""
from dataclasses import replace

import paddle

from model import networks
from model.checkpoint import Metadata, load_checkpoint
from model.weights import adapt_input, load_weights
from run.console import UserError, note
from run.fingerprints import Fingerprints
from run.recipes import DEFAULT_RECIPE, read_recipe
from run.spec import CHANNELS, FLOW_MEAN, MEANS, ClipSpec, NetworkSpec, Recipe, differences


def new_run(given, pretrain_path, class_names, n_videos, frame_rates, modality="rgb"):
    """Return the network to train and the `Metadata` of a run that starts.

    `pretrain_path` is None for a start from scratch, `n_videos` are the training videos, `frame_rates` is as
    in `ClipSpec`, `modality` that of the frames. What is given counts more than the pretrained weights, these
    more than the recipe, and that more than the defaults. The weights decide the network; an option that
    contradicts them is an error.
    """
    recipe = read_recipe(given.recipe_name or DEFAULT_RECIPE)
    clip, weights = recipe.clip, None
    if pretrain_path is None:
        arguments = {**recipe.network, **given.network}
        spec = NetworkSpec(given.model or recipe.model or NetworkSpec().name, arguments)
    else:
        weights, pretrained = load_checkpoint(pretrain_path)
        spec = pretrained.network
        _require_fitting(given, pretrain_path, spec)
        if pretrained.clip.modality == "flow" != modality:
            raise UserError(f"{pretrain_path}: weights of flow, the frames are {modality}; give others")
        clip = {**clip, **pretrained.clip.to_json()}
        del clip["version"]
    clip = replace(_clip_spec(clip, given.clip, modality), frame_rates=frame_rates)
    settings = Recipe.of({**recipe.recipe, **given.recipe})
    if given.recipe_name is None and "batch_size" not in given.recipe:
        settings = replace(settings, batch_size=_fitting_batch_size(settings.batch_size, n_videos))
    spec = spec.replace(n_classes=len(class_names), n_input_channels=clip.n_channels)
    spec = networks.checked(spec, "options")
    paddle.seed(settings.manual_seed)
    net = networks.build(spec)
    if weights is not None:
        arrays = weights["weights"]
        if pretrained.clip.modality != modality:
            arrays, names = adapt_input(arrays, {n: t.shape for n, t in net.state_dict().items()})
            inputs = ", ".join(names)
            note(f"{pretrain_path}: weights of RGB; each channel of {inputs} starts as the mean of the three")
        try:
            load_weights(net, arrays, except_head=True)
        except UserError as error:
            raise UserError(f"{pretrain_path}: {error}") from None
    if settings.ft_begin_module is None:
        settings = replace(settings, ft_begin_module="" if weights is None else net.fine_tune_from)
    metadata = Metadata(spec, clip, list(class_names), settings, recipe.name, recipe.published)
    known = None if weights is None else pretrained.training_videos
    return net, replace(metadata, training_videos=known)


def _clip_spec(before, given, modality):
    """Return the spec of a run's clips: what was before it (recipe, pretrained weights), then what is given.

    The pixels' mean, std and scale are no use for flow; that has `FLOW_MEAN`, or the first two values of what
    is given, as in the reference.
    """
    if before.get("modality", "rgb") != modality:
        before = {**before, **MEANS[FLOW_MEAN]._asdict()}
    values, n = {**before, **given, "modality": modality}, CHANNELS[modality]
    return ClipSpec.of({k: v[:n] if k in ("mean", "std") else v for k, v in values.items()})


def trained_on(metadata, samples):
    """Return the metadata of a run that trains on some samples, on top of what its weights have seen."""
    return replace(
        metadata, training_videos=Fingerprints.of(samples) | (metadata.training_videos or Fingerprints())
    )


def _fitting_batch_size(batch_size, n_videos):
    """Return a batch size for a set of videos: on a small one, the largest power of two up to an eighth."""
    if n_videos // 8 >= batch_size:
        return batch_size
    fitting = 2 ** (max(1, n_videos // 8).bit_length() - 1)
    note(f"{n_videos} training videos are few: --batch_size {fitting} instead of {batch_size}")
    return fitting


def _require_fitting(given, pretrain_path, spec):
    """Raise UserError if an option asks for another network than the pretrained weights'."""
    asked = {**given.network, **({"model": given.model} if given.model else {})}
    found = {**spec.arguments, "model": spec.name}
    for name, value in asked.items():
        if found.get(name) != value:
            raise UserError(
                f"{pretrain_path}: weights with {name} {found.get(name)}, --{name} asks for {value}; "
                "leave the option out or give other weights"
            )


def resumed_run(given, path, metadata):
    """Return the network and the `Metadata` of a run that continues from a checkpoint, without its state.

    Options that were not given are the run's own; only `n_epochs` and `accumulate` may be others.
    """
    if metadata.training is None:
        raise UserError(
            f"{path}: weights only, nothing to resume; start from them: --pretrain_path {path}"
        )
    network = NetworkSpec(
        given.model or metadata.network.name,
        {**metadata.network.arguments, **given.network},
    )
    clip = replace(metadata.clip, **given.clip)
    recipe = replace(metadata.recipe, **given.recipe)
    changed = [
        differences(metadata.network, network),
        differences(metadata.clip, clip),
        differences(metadata.recipe, recipe, but=("n_epochs", "accumulate")),
    ]
    if given.recipe_name not in (None, metadata.recipe_name):
        changed.append(f"recipe was {metadata.recipe_name} and is {given.recipe_name}")
    if any(changed):
        raise UserError(
            f"{path}: a run continues as it was started, but {', '.join(filter(None, changed))}; leave these "
            "options out, or start a new run with another --result_path"
        )
    if recipe.accumulate != metadata.recipe.accumulate:
        note(
            f"the run was started with --accumulate {metadata.recipe.accumulate} and continues with "
            f"{recipe.accumulate}: the BatchNorms see parts of another size"
        )
    return networks.build(metadata.network), replace(metadata, recipe=recipe, best=None, training=None)
