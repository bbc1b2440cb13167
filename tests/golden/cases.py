"""The networks, training runs and videos that the golden files are made with."""

# The networks: kind, depth, classes, seed, clips of (number, channels, frames, side), options.
LOGITS = [
    ("resnet", 10, 7, 1, (2, 3, 16, 64), {}),
    ("resnet", 18, 101, 2, (2, 3, 16, 112), {}),
    ("resnet", 34, 700, 3, (1, 3, 16, 112), {}),
    ("resnet", 50, 1039, 4, (2, 3, 16, 112), {}),
    ("resnet", 101, 339, 5, (1, 3, 16, 112), {}),
    ("resnet", 18, 11, 6, (1, 3, 8, 56), {"shortcut_type": "A"}),
    ("resnet", 50, 9, 7, (1, 3, 16, 64),
     {"widen_factor": 0.5, "conv1_t_size": 3, "conv1_t_stride": 2, "no_max_pool": True}),
    ("resnet2p1d", 18, 101, 8, (1, 3, 16, 112), {}),
    ("resnet2p1d", 50, 700, 9, (1, 3, 16, 64), {}),
    ("wideresnet", 50, 17, 12, (1, 3, 16, 64), {"k": 2}),
]  # fmt: skip
# The same with the code whose class it is, and the factor of its convolutions' weights: with 11/16 the
# logits of a deep network with additions that nothing normalises stay small enough to notice every tensor.
SMALLER = 11 / 16
FAMILY = [
    ("resnet2p1d", 18, "2020", 101, 21, (2, 3, 16, 56), {}, 1.0),
    ("resnet2p1d", 50, "2020", 700, 22, (2, 3, 16, 64), {}, 1.0),
    ("resnet2p1d", 18, "2020", 11, 23, (1, 2, 16, 56), {"n_input_channels": 2, "shortcut_type": "A"}, 1.0),
    ("wideresnet", 50, "2018", 400, 24, (2, 3, 16, 56), {"k": 2}, 1.0),
    ("wideresnet", 50, "2020", 101, 25, (2, 3, 16, 56), {"k": 2}, 1.0),
    ("resnext", 50, "2018", 101, 26, (2, 3, 16, 56), {"cardinality": 32}, 1.0),
    ("resnext", 101, "2018", 400, 27, (2, 3, 16, 64), {"cardinality": 32}, 1.0),
    ("resnext", 101, "2018", 51, 28, (1, 3, 64, 56), {"cardinality": 32}, 1.0),
    ("resnext", 50, "2020", 11, 29, (2, 3, 16, 56), {"cardinality": 32}, 1.0),
    ("preresnet", 18, "2018", 51, 30, (2, 3, 16, 56), {"shortcut_type": "A"}, 1.0),
    ("preresnet", 18, "2018", 101, 31, (2, 3, 16, 56), {"shortcut_type": "B"}, 1.0),
    ("preresnet", 50, "2018", 400, 32, (2, 3, 16, 64), {"shortcut_type": "B"}, 1.0),
    ("preresnet", 200, "2018", 400, 33, (1, 3, 16, 56), {"shortcut_type": "B"}, SMALLER),
    ("densenet", 121, "2018", 400, 34, (2, 3, 16, 64), {}, SMALLER),
    ("densenet", 121, "2020", 101, 35, (2, 3, 16, 56), {}, SMALLER),
    ("densenet", 169, "2018", 11, 36, (2, 3, 16, 56), {}, SMALLER),
    ("densenet", 201, "2018", 400, 37, (1, 3, 16, 64), {}, SMALLER),
    ("densenet", 121, "2020", 9, 38, (1, 3, 16, 56),
     {"conv1_t_size": 3, "conv1_t_stride": 2, "no_max_pool": True}, SMALLER),
    ("preresnet", 34, "2018", 7, 39, (1, 3, 16, 64), {"shortcut_type": "A"}, 1.0),
    ("preresnet", 50, "2018", 7, 40, (1, 3, 16, 56), {"shortcut_type": "A"}, 1.0),
    ("resnext", 50, "2018", 7, 41, (1, 3, 16, 56), {"cardinality": 32, "shortcut_type": "A"}, 1.0),
    ("resnext", 152, "2018", 13, 42, (1, 3, 16, 56), {"cardinality": 32}, 1.0),
    ("resnet2p1d", 34, "2020", 9, 43, (1, 3, 16, 56),
     {"widen_factor": 0.5, "conv1_t_size": 3, "conv1_t_stride": 2, "no_max_pool": True}, 1.0),
    ("densenet", 264, "2018", 7, 44, (1, 3, 16, 56), {}, SMALLER),
]  # fmt: skip
DEPTHS = (10, 18, 34, 50, 101, 152, 200)
# Kind, code, depths, ending of the key: where 2018 and 2020 have the same network, the key has no code.
SHAPES = [
    ("resnet", "2020", DEPTHS, ""),
    ("resnet2p1d", "2020", (18, 34, 50, 101), ""),
    ("wideresnet", "2020", (50,), ""),
]
FAMILY_SHAPES = [
    ("resnet2p1d", "2020", DEPTHS, ""),
    ("wideresnet", "2018", (50,), "_2018"),
    ("wideresnet", "2020", (50,), "_2020"),
    ("resnext", "2018", (50, 101, 152), "_2018"),
    ("resnext", "2020", (50,), "_2020"),
    ("preresnet", "2020", (10,), ""),
    ("preresnet", "2018", DEPTHS[1:], ""),
    ("preresnet", "2018", (18,), "_A"),
    ("resnet", "2020", (18,), "_A"),
    ("densenet", "2018", (121, 169, 201, 264), "_2018"),
    ("densenet", "2020", (121,), "_2020"),
]
COUNTS = [
    ("resnet2p1d", "2020", DEPTHS, ""),
    ("resnet", "2020", DEPTHS, ""),
    ("wideresnet", "2018", (50,), "_2018"),
    ("wideresnet", "2020", (50, 101, 152, 200), "_2020"),
    ("resnext", "2018", (50, 101, 152), "_2018"),
    ("resnext", "2020", (50, 101, 152, 200), "_2020"),
    ("preresnet", "2018", DEPTHS[1:], ""),
    ("preresnet", "2020", (10,), "_2020"),
    ("preresnet", "2018", (18, 34, 50), "_A"),
    ("resnet", "2020", (18, 34), "_A"),
    ("densenet", "2018", (121, 169, 201, 264), "_2018"),
    ("densenet", "2020", (121, 169, 201, 264), "_2020"),
    ("googlenet", "work", ("",), "_work"),
]
FIXED_OPTIONS = {"wideresnet": {"k": 2}, "googlenet": {"init_weights": False}}  # the latter needs scipy
# Depth, classes before and after, seed, steps, batch, clip, where training begins, learning rate, step of
# its fall to a tenth. The weights are drawn with the seed, the new head with the next one, the clips and
# class indices of step i with 100 * seed + i, two clips to evaluate with 100 * seed + 999.
TRAINING = [
    (10, 39, 5, 21, 12, 4, (3, 8, 56, 56), "layer4", 0.003, 8),
    (18, 1039, 101, 22, 8, 4, (3, 16, 112, 112), "layer4", 0.003, None),
    (18, 20, 6, 24, 4, 8, (3, 16, 64, 64), "", 0.001, None),
]
LENGTHS = (1, 2, 5, 15, 16, 17, 18, 29, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100, 164, 185, 300, 1776)
VIDEOS = {"v_Archery_g01_c01": 131, "v_Basketball_g01_c01": 141}
