"""Check that a checkpoint fits what it is to score."""
from run.console import UserError, note


def check_classes(path, metadata, class_names):
    """Raise UserError if a checkpoint does not tell the annotation's classes apart."""
    n_classes = metadata.network.arguments["n_classes"]
    if n_classes != len(class_names) or metadata.class_names not in (None, class_names):
        what = "other classes" if n_classes == len(class_names) else f"{n_classes} classes"
        raise UserError(
            f"{path}: weights for {what}, the annotation has {len(class_names)}; "
            "fine-tune them with train.py, or give the annotation that they were trained on"
        )


def check_modality(path, metadata, store):
    """Raise UserError if a network of RGB is to see frames of flow, or the reverse."""
    own = metadata.clip.modality
    if own != store.modality:
        how = "with" if own == "flow" else "without"
        raise UserError(
            f"{path}: a network of {own}, the frames in {store.path} are {store.modality}; give --video_path "
            f"frames of {own}, which generate_video_jpgs.py makes {how} --flow"
        )


def note_unknown_order(path, metadata):
    """Tell the user if nothing says which class each output of a network is."""
    if metadata.class_names is None:
        note(f"{path}: has no class names; its outputs are taken to be in the annotation's order, unchecked")


def note_other_decoding(path, metadata, fast_decode):
    """Tell the user if a network was validated, and its best epoch chosen, on other pixels."""
    if metadata.recipe is None:  # converted weights do not say
        return
    trained = metadata.recipe.fast_decode
    if trained != fast_decode:
        ways = {True: "with", False: "without"}
        note(f"{path}: validated {ways[trained]} --fast_decode, here {ways[fast_decode]}: other pixels")


def note_training_videos(path, metadata, samples):
    """Tell the user if a network is tested on videos that it was trained on, as far as it knows them."""
    n_known = 0 if metadata.training_videos is None else metadata.training_videos.count(samples)
    if n_known:
        note(
            f"{path}: {n_known} of the {len(samples)} videos were training videos of this checkpoint; the "
            "accuracy on them says little about others"
        )
