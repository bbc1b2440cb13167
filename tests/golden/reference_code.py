"""Import the reference's own modules from a checkout, changed where today's Python and torch need it.

The checkouts are of github.com/kenshohara/3D-ResNets-PyTorch, by what is in them:

    2020    branch master: ResNet, R(2+1)D, wide, pre-activation ResNet, ResNeXt, DenseNet; all transforms
    2018    branch CVPR2018, or the repository video-classification-3d-cnn-pytorch: what the weights
            released in 2018 belong to, with fixed pooling
    work    branch work, newer than master: GoogLeNet

Nothing of them is kept here: a patch is a pattern and what stands in its place when the file is loaded.
"""
import importlib
import importlib.machinery
import importlib.util
import re
import sys
import warnings
from pathlib import Path
from typing import NamedTuple


class Patch(NamedTuple):
    """Replaces `pattern`, a regular expression, by `text` in `file`; the golden file says `why`."""

    file: str
    pattern: str
    text: str
    why: str


NAMES_OF_PLANES = "ResNet passes in_planes to a block that takes inplanes: in_planes in the block too"
PATCHES = {
    "2020": [
        Patch("models/resnext.py", r"\binplanes\b", "in_planes", NAMES_OF_PLANES),
        Patch("models/pre_act_resnet.py", r"\binplanes\b", "in_planes", NAMES_OF_PLANES),
        Patch(
            "models/resnext.py", r"shortcut_type, n_classes\)", "shortcut_type, 1.0, n_classes)",
            "ResNeXt passes n_classes positionally into the slot of widen_factor: 1.0 passed in between",
        ),
        Patch(
            "models/densenet.py", r"\bnum_classes\b", "n_classes",
            "DenseNet takes num_classes, generate_model is called with n_classes: n_classes in both",
        ),
        Patch("utils.py", r"(?m)^from sklearn.*$", "", "scikit-learn, which is not used here, is left out"),
        Patch(
            "spatial_transforms.py", r"transforms\.Scale\b", "transforms.Resize",
            "torchvision has renamed Scale, which is not used here, to Resize",
        ),
    ],
    "2018": [
        Patch(
            "models/densenet.py", r"add_module\('(norm|relu|conv)\.([12])'", r"_modules.__setitem__('\1.\2'",
            'torch >= 0.4 refuses "." in a module name: the six children of a dense layer are put into '
            "_modules directly, under the 2018 names",
        ),
        Patch(
            "models/densenet.py", r"'norm5', nn\.BatchNorm2d", "'norm5', nn.BatchNorm3d",
            "norm5 is a BatchNorm2d, which refuses 5-D input today: BatchNorm3d in its place (same tensors, "
            "same arithmetic)",
        ),
    ],
    "work": [],
}  # fmt: skip
FILES = {"preresnet": "pre_act_resnet", "wideresnet": "wide_resnet"}  # others are named as their kind


class Checkout:
    """A folder with the reference's code; `code` is "2020", "2018" or "work"."""

    def __init__(self, path):
        self.path = Path(path).resolve()
        models = self.path / "models"
        if not (models / "resnet.py").is_file():
            sys.exit(f"error: {path}: holds no models/resnet.py, so it is no checkout of the reference")
        is_2020 = (models / "resnet2p1d.py").is_file()
        self.code = "work" if (models / "googlenet.py").is_file() else "2020" if is_2020 else "2018"

    def module(self, name):
        """Import a module of the checkout, such as "models.resnet", whatever else has that name."""
        finder = _Finder(self.path, PATCHES[self.code])
        sys.meta_path.insert(0, finder)
        try:
            return importlib.import_module(name)
        finally:
            sys.meta_path.remove(finder)
            for found in finder.found:
                sys.modules.pop(found, None)

    def network(self, kind, depth, n_classes, sample_size=112, sample_duration=16, **options):
        """Build a network with the reference's options. The sizes are for 2018's fixed pooling."""
        warnings.filterwarnings("ignore", "`nn.init.kaiming_normal` is now deprecated")
        module = self.module(f"models.{FILES.get(kind, kind)}")
        if self.code == "2018":
            build = getattr(module, f"{'densenet' if kind == 'densenet' else 'resnet'}{depth}")
            sizes = {"sample_size": sample_size, "sample_duration": sample_duration}
            return build(num_classes=n_classes, **sizes, **options)
        if kind == "googlenet":
            return module.generate_model(n_classes=n_classes, **options)
        return module.generate_model(depth, n_classes=n_classes, **options)

    def patches_of(self, kind):
        """Return why the file of a kind of network had to be changed, in sentences."""
        file = f"models/{FILES.get(kind, kind)}.py"
        return [patch.why for patch in PATCHES[self.code] if patch.file == file]


class _Finder:
    """Finds modules in a checkout before all others; lists in `found` which."""

    def __init__(self, path, patches):
        self.path = path
        self.patches = patches
        self.found = []

    def find_spec(self, name, path=None, target=None):
        place = self.path.joinpath(*name.split("."))
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            self.found.append(name)
            loader = _Loader(name, str(file))
            loader.patches = [p for p in self.patches if self.path / p.file == file]
            return importlib.util.spec_from_file_location(name, file, loader=loader)
        if place.is_dir():
            self.found.append(name)
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        return None


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, name):  # of the patched text, and never from or to a cache beside the checkout's file
        text = Path(self.path).read_text()
        for patch in self.patches:
            text, n_places = re.subn(patch.pattern, patch.text, text)
            if not n_places:
                sys.exit(f"error: {self.path}: {patch.pattern!r} is not there; another version of the code?")
        return compile(text, self.path, "exec")
