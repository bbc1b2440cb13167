"""The specs of a run: what their JSON may hold, what differs between two, and how a rate is resampled."""
import json

import pytest

from run.console import UserError
from run.recipes import read_recipe, recipe_names
from run.spec import ClipSpec, FrameSpec, NetworkSpec, Protocol, Recipe, differences

SPECS = [ClipSpec, FrameSpec, Recipe, Protocol]


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_json(spec):
    assert spec.from_json(json.loads(json.dumps(spec().to_json())), "here") == spec()


def test_values_survive_json():
    clip = ClipSpec(modality="flow", mean=(0.5, 0.5), std=(0.5, 0.25), scale=1.0, frame_rates=(25, 24, 30.0))
    recipe = Recipe(ft_begin_module="", multistep_milestones=(3, 1), learning_rate=1e-5)
    for each in (clip, recipe, FrameSpec(fps=12.5)):
        assert type(each).from_json(json.loads(json.dumps(each.to_json())), "here") == each


@pytest.mark.parametrize(
    "spec, content, told",
    [
        (Recipe, {"batch_size": 0}, "here: batch_size is 0, expected a whole number, at least 1"),
        (Recipe, {"batch_size": 8.0}, "here: batch_size is 8.0, expected a whole number"),
        (Recipe, {"batch_size": True}, "here: batch_size is True"),
        (Recipe, {"nesterov": 1}, "here: nesterov is 1, expected true or false"),
        (Recipe, {"learning_rate": 0}, "here: learning_rate is 0, expected a number, above 0"),
        (Recipe, {"learning_rate": float("nan")}, "here: learning_rate is nan"),
        (Recipe, {"momentum": 1.5}, "at least 0, at most 1"),
        (Recipe, {"train_crop": "left"}, "here: train_crop is 'left', expected one of random, corner,"),
        (Recipe, {"multistep_milestones": 50}, "here: multistep_milestones is 50, expected a list of"),
        (Recipe, {"multistep_milestones": [0]}, "here: multistep_milestones is [0]"),
        (Recipe, {"optimiser": "adam"}, "here: unknown field 'optimiser'"),
        (FrameSpec, {"fps": -1}, "here: fps is -1, expected a number, above 0 or null"),
        (ClipSpec, {"mean": [0.4, 0.4, 0.4, 0.4]}, "here: rgb clips have 3 channels, not a mean of 4"),
        (ClipSpec, {"frame_rates": [25, 30]}, "here: frame_rates is [25, 30], expected 3 numbers"),
        (Protocol, {"version": 2}, "here: of version 2, this program reads up to 1"),
        (Protocol, [], "here: expected an object, found []"),
    ],
)
def test_what_a_spec_cannot_hold_is_one_line_that_names_the_field(spec, content, told):
    with pytest.raises(UserError) as error:
        spec.from_json(content, "here")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_field_that_a_file_does_not_know_has_its_default():
    assert Recipe.from_json({"batch_size": 8}, "here") == Recipe(batch_size=8)


def test_differences_are_told_by_field():
    assert differences(Recipe(), Recipe()) == ""
    told = differences(Recipe(batch_size=8, multistep_milestones=(1, 2)), Recipe(ft_begin_module=""))
    assert told == (
        "ft_begin_module was None and is '', multistep_milestones was 1 2 and is 50 100 150, "
        "batch_size was 8 and is 128"
    )
    assert differences(Recipe(n_epochs=1), Recipe(n_epochs=2), but=("n_epochs",)) == ""
    one, other = NetworkSpec("resnet", {"model_depth": 10}), NetworkSpec("wideresnet", {"model_depth": 10})
    assert differences(one, other) == "model was resnet and is wideresnet"
    assert differences(one, one.replace(model_depth=18)) == "model_depth was 10 and is 18"


@pytest.mark.parametrize(
    "own, expected",
    [
        *((rate, None) for rate in (25.0, 29.97, 20.0, 37.4, None)),
        *((rate, 25.0) for rate in (19.9, 37.5, 120)),
    ],
)
def test_only_a_video_far_from_the_rates_of_the_training_is_resampled(own, expected):
    assert ClipSpec(frame_rates=(25.0, 25.0, 29.97)).target_fps(own) == expected
    assert ClipSpec().target_fps(own) is None


def test_the_mean_is_known_by_its_data_set():
    assert ClipSpec().mean_dataset == "kinetics"
    assert ClipSpec(mean=(0.5,) * 3, std=(0.5,) * 3).mean_dataset == "0.5"
    assert ClipSpec(scale=1.0).mean_dataset is None and ClipSpec(mean=(0, 0, 0)).mean_dataset is None


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_read_and_says_where_it_is_written(name):
    recipe = read_recipe(name)
    assert recipe.title and recipe.source and Recipe.of(recipe.recipe) and ClipSpec.of(recipe.clip)


def test_the_default_recipe_is_the_published_one():
    recipe = Recipe.of(read_recipe("paper2_finetune").recipe)
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.003, 0.9, 1e-3)
    assert (recipe.lr_scheduler, recipe.plateau_patience) == ("plateau", 10)
    assert (recipe.batch_size, recipe.n_epochs) == (128, 200)
    assert read_recipe("paper2_finetune").published.accuracy == 0.929


@pytest.mark.parametrize("other", [{"nesterov": True}, {"momentum": 0.0}])
def test_dampening_without_momentum_or_with_nesterov_is_refused_as_torch_or_nothing_would_use_it(other):
    with pytest.raises(UserError, match="exclude each other"):
        Recipe.of({"dampening": 0.9, **other})


def test_the_recipes_of_paper_1_have_its_dampening_and_pixels_and_the_others_have_not():
    for name in recipe_names():
        recipe, is_first = read_recipe(name), name.startswith("paper1")
        settings, clip = Recipe.of(recipe.recipe), ClipSpec.of(recipe.clip)
        assert settings.dampening == (0.9 if is_first else 0)
        assert (settings.train_crop == "corner") == is_first == (clip.scale == 1 and clip.std == (1, 1, 1))


def test_the_recipes_are_listed_with_what_they_set_their_source_and_the_published_figure(run_script):
    code, out, err = run_script("train.py", "--recipes")
    assert (code, err) == (0, "")
    entries = dict(entry.split(": ", 1) for entry in out.strip().split("\n\n"))
    assert list(entries) == recipe_names()
    assert "published: 42.40%" in entries["paper1_ucf101_scratch"]
    kinetics = entries["paper1_kinetics"]
    assert "dampening 0.9" in kinetics and "published: no figure" in kinetics
    assert all("  written in: " in text and "  sets: " in text for text in entries.values())
