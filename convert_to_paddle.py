"""Stage 2: a checkpoint of 3D-ResNets-PyTorch to Paddle weights.

    python convert_to_paddle.py weights/r3d50_KM_200ep.pth

writes weights/r3d50_KM_200ep.pdparams, and prints the network that it found, which of the released files it
seems to be, the largest difference between the logits of the two frameworks, and the size of the file. Needs
torch, as no later stage does. `--list` prints all released files. The way back, and other formats:
`tools/export_model.py`.
"""
import importlib.util
from dataclasses import replace

from opts import convert_options
from run.console import UserError, about, note, run_script, working

if __name__ == "__main__":
    OPTIONS = convert_options()  # before Paddle, so that --help answers at once
    with working("loading Paddle"):
        import model.device  # noqa: F401

from model import networks
from model.checkpoint import Metadata, metadata_of, save_checkpoint
from model.device import prepare_device
from model.export import compare
from model.torch_checkpoint import read_torch_checkpoint, refuse_other_files
from model.weights import count_parameters, from_torch, load_weights, weights_of
from run.released import choose, released_files
from run.spec import ClipSpec, NetworkSpec


def require_torch():
    """Raise UserError if PyTorch is missing, the one package that no other stage needs."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("this stage reads PyTorch's files and needs torch: pip install torch")


ASSUMED = (
    "the file does not tell conv1's stride in time, the max pool, how a clip is made, or the class names; "
    "all but the last are taken to be the released weights' (options set them, see --help)"
)


def convert(torch_path, given, key, is_verified):
    """Return the network of a `.pth`, its metadata, and whether these are assumed; print what it is and how
    it compares.
    """
    with working(f"reading {torch_path.name}"):
        state_dict, text = read_torch_checkpoint(torch_path, key)
    state_dict = {name: tensor.float() for name, tensor in state_dict.items()}
    weights = from_torch({name: tensor.numpy() for name, tensor in state_dict.items()})
    shapes = {name: tuple(array.shape) for name, array in weights.items()}
    network = networks.recognise(shapes)
    found = released_as(network, state_dict, torch_path.name) if text is None else []
    metadata = described(network, shapes, text, found, given)
    spec = metadata.network
    net = networks.empty(spec)
    load_weights(net, weights)
    print(
        f"{torch_path}: {networks.describe(spec)}, {spec.arguments['n_classes']} classes, "
        f"{len(state_dict)} tensors, {count_parameters(net):,} parameters"
    )
    print_released(found, metadata.clip)
    if is_verified:
        from model import torch_forward

        logits_of = lambda clips: torch_forward.logits(state_dict, clips, spec)
        line, is_equal = compare(net, logits_of, metadata.clip, "PyTorch to Paddle")
        print(line)
        if not is_equal:
            raise UserError("the networks differ, nothing was written")
    return net, metadata, text is None and not (found or given.network or given.clip)


def released_as(network, state_dict, file_name):
    """Return the `Released` that weights of a network may be, the likeliest first; [] for others."""
    of_row = lambda row: networks.checked(
        NetworkSpec(row.model, {**row.arguments, "n_classes": row.n_classes}), row.file
    )
    candidates = [row for row in released_files() if row.model == network.name and of_row(row) == network]
    is_counted = any(name.endswith("num_batches_tracked") for name in state_dict)
    return choose(candidates, is_counted, file_name)


def print_released(found, clip):
    """Print which released file it is taken for, and note what neither its tensors nor its name tell."""
    if not found:
        return
    row, *others = found
    print(f"  taken for the released {row.file}, of {row.trained_on}")
    print(f"  clips: {clip.sample_duration} frames, {clip.pixels()}")
    print(f"  {row.classes()}")
    if row.published:
        print(f"  published: {row.published}")
    if others:
        options = f"--sample_duration {others[0].sample_duration}"
        note(f"its tensors may also be those of {others[0].file}; if so, convert with {options}")


def described(network, shapes, text, found, given):
    """Return the metadata of weights: what their file says, else what the released ones are; what is given
    counts more than either. `network` is the one that their names and shapes show.
    """
    metadata = Metadata(network)
    if found:
        metadata = replace(metadata, clip=found[0].clip, class_names=found[0].class_names())
    if text is not None:
        metadata = metadata_of(text, "its metadata")
    network = networks.checked(metadata.network.replace(**given.network), "options")
    if networks.shapes_of(network) != shapes:
        asked = ", ".join(f"--{name} {value}" for name, value in given.network.items())
        raise UserError(f"the weights are of another network than {asked or 'its metadata'} says")
    clip = ClipSpec.of({**metadata.clip.to_json(), **given.clip}, "options")
    return replace(metadata, network=network, clip=clip)


def main(options):
    source = options.source_path
    target = options.target_path or source.with_name(f"{source.stem}.pdparams")
    if target == source:
        with about(source):
            refuse_other_files(source)
        raise UserError(f"{target}: would overwrite the checkpoint it is made from")
    require_torch()
    prepare_device(on_cpu=True)  # newer GPUs convolve in TF32, which differs from PyTorch by 1e-3
    with about(source):
        net, metadata, is_assumed = convert(source, options.given, options.key, not options.no_verify)
    save_checkpoint(target, {"weights": weights_of(net)}, metadata)
    print(f"{target}: {target.stat().st_size / 1e6:,.0f} MB")
    if is_assumed:
        note(ASSUMED)


if __name__ == "__main__":
    run_script(main, OPTIONS)
