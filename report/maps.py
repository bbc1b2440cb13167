"""What a network looked at in the mistakes, as `test.py --cam` wrote it, drawn into their frames."""
import base64
import io
import json

from run.console import UserError
from run.kinds import require_object, versioned


def read_maps(path, class_of):
    """Return the maps beside a results file, `{video: its entry}`, and "" or why there are none.

    `class_of` maps each video to the class that it was taken for: maps for another are of other results.
    """
    try:
        content = versioned(require_object(json.loads(path.read_bytes()), path.name), 1, path.name)
        videos = require_object(content["videos"], f"{path.name}: videos")
        for key, entry in videos.items():
            if class_of.get(key) != entry["label"]:
                return {}, f"{path.name} is of other results than these"
            for image in map(_picture, entry["maps"]):
                image.load()
            left, top, right, bottom = map(float, entry["part"])
    except FileNotFoundError:
        return {}, ""
    except ImportError as error:
        return {}, str(error)
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        return {}, f"{path.name} cannot be read: {error!r:.100}"
    return videos, ""


def heated(images, entry):
    """Return the pictures of frames with their maps in red; what the network does not see stays as it is."""
    from PIL import Image

    drawn, red = [], (220, 20, 20)
    for image, picture in zip(images, entry["maps"]):
        left, top, right, bottom = (round(part * side) for part, side in zip(entry["part"], image.size * 2))
        small = _picture(picture).convert("L").resize((max(1, right - left), max(1, bottom - top)))
        heat = Image.new("L", image.size)
        heat.paste(small.point(lambda value: 0.7 * value), (left, top))
        drawn.append(Image.composite(Image.new("RGB", image.size, red), image, heat))
    return drawn


def _picture(text):
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(text)))
