"""Groups of options that several parsers of `opts.py` share."""
from run import registry
from run.arguments import pattern, take_given
from run.kinds import Kind
from run.machine import MOST_READERS, default_readers
from run.spec import MEANS, ClipSpec, Given, Recipe

NETWORKS = "model/networks"


def frames(parser):
    """Add where frames, annotation and results are, and how many processes read."""
    parser.begin("data")
    parser.path("video_path", "dataset/UCF-101-jpg", "folder of frames, <Class>/<video>/image_00001.jpg")
    parser.path("annotation_path", "dataset/ucf101_01.json", "annotation file of the split")
    parser.path("result_path", "results", "folder for all that the script writes")
    text = "processes that read frames, of each rank; 0 reads in the main one (default: "
    text += f"{default_readers()}, a core less than there are for each rank, at most {MOST_READERS})"
    parser.option("n_threads", default_readers(), Kind(int, 0, help=text))


def untraced(parser):
    """Add the options of networks that leave no trace in the weights."""
    parser.begin("network", "what the weights do not tell, for the whole network that they are of")
    for path in registry.modules(NETWORKS).values():
        names = registry.literal(path.with_name("_tables.py"), "UNTRACED")
        for name, (default, kind) in registry.option_kinds(path).items():
            if name in names and f"--{name}" not in parser._option_string_actions:
                parser.option(name, default, kind, is_given=True)


def network(parser):
    """Add `--model` and the options of all networks; an option that several share stands once."""
    paths = registry.modules(NETWORKS)
    parser.begin("network", "what the pretrained weights do not decide; for training from scratch")
    text = f"family: {', '.join(paths)}; default: the weights', from scratch resnet"
    family = Kind(str, choices=tuple(paths), help=text, metavar="NAME")
    parser.option("model", None, family, is_given=True)
    owners, shared = {}, {}
    for family, path in paths.items():
        for name, (default, kind) in registry.option_kinds(path).items():
            if kind.help:
                owners.setdefault(name, []).append(family)
                shared.setdefault(name, []).append((default, kind))
    for name, entries in shared.items():
        default, kind = entries[0]
        if kind.choices:
            choices = sorted({choice for _, each in entries for choice in each.choices})
            kind = Kind(kind.type, choices=tuple(choices), help=kind.help)
        of = "" if len(owners[name]) == len(paths) else f"{', '.join(owners[name])}: "
        has_default = kind.type is not bool and default is not None
        off = f"; default: the weights', from scratch {default}" if has_default else ""
        parser.option(name, None, Kind(**{**vars(kind), "help": f"{of}{kind.help}{off}"}), is_given=True)


def normalisation(parser):
    """Add the choice of the pixels' mean, std and scale."""
    parser.begin("network")
    text = "mean and std of the pixels, kept in the checkpoint; 2018: 0 to 255 less a mean, for files of 2018"
    parser.option("mean_dataset", "kinetics", Kind(str, choices=tuple(MEANS), help=text), is_given=True)


def given(options):
    """Take what decides a network, its clips and its training out of the parsed options, as a `Given`."""
    arguments = {n for path in registry.modules(NETWORKS).values() for n in registry.option_kinds(path)}
    clip = take_given(options, [*ClipSpec.kinds(), "mean_dataset"])
    if "mean_dataset" in clip:
        clip.update(MEANS[clip.pop("mean_dataset")]._asdict())
    named = take_given(options, ("recipe", "model"))
    return Given(
        recipe_name=named.get("recipe"),
        model=named.get("model"),
        network=take_given(options, arguments),
        clip=clip,
        recipe=take_given(options, Recipe.kinds()),
    )


def time_limit(parser, text):
    """Add the seconds that one video may take."""
    parser.option("time_limit", 600.0, Kind(float, 0, above=True, help=text))


def of_sources(parser, sources):
    """Add the options of all data sets, one that several share once; return `{name: data sets}`."""
    kinds = {source: registry.option_kinds(path) for source, path in sources.items()}
    users_of = {}
    for source, options in kinds.items():
        for name in options:
            users_of.setdefault(name, []).append(source)
    for name, users in users_of.items():
        parser.begin(f"for the data set {' or '.join(users)}")
        default, kind = kinds[users[0]][name]
        texts = {source: kinds[source][name][1].help for source in users}
        if len(set(texts.values())) > 1:
            text = "; ".join(f"{source}: {text}" for source, text in texts.items())
            kind = Kind(**{**vars(kind), "help": text})
        if registry.literal(sources[users[0]], "OPTIONS")[name]["type"] == "pattern":
            parser.group.add_argument(f"--{name}", type=pattern, metavar="REGEX", help=kind.help)
        else:
            parser.option(name, default, kind, is_given=True)
    return users_of
