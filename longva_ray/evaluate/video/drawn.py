"""The needles and the haystack that are drawn where none are given, in one of two worlds.

    world, seed -> needles, and a video of as many frames as the grid asks for

`cards` is for models that read: cards with numbers, hidden in ever-changing scenes. `tiny` is the
world of longva-tiny, which has seen nothing else. The seeds of the tiny world are those of its
published test, so that seeds 1 to 3 draw exactly what was tested there.
"""

import logging
from pathlib import Path

from longva_ray.evaluate.video.haystack import write_haystack_video
from longva_ray.evaluate.video.needles import Needle, draw_cards, read_needles
from longva_ray.files.folder import write_once
from longva_ray.settings.needles import VniahConfig
from longva_ray.tiny.image_sets import NEEDLES
from longva_ray.tiny.videos import NEEDLES_FILE, write_haystack, write_needles

logger = logging.getLogger(__name__)


CARDS = 5
"""As many needles as the paper has."""


TINY_NEEDLE_SEED, TINY_HAYSTACK_SEED = 1000, 2000
"""The seed of the test is added to these."""


def draw_needles(config: VniahConfig, folder: Path) -> list[Needle]:
    """The needles of the world and seed; those of the tiny world are also left in the folder."""
    if config.world == "cards":
        return draw_cards(CARDS, seed=config.seed)
    place = folder / f"needles-tiny-seed{config.seed}"
    seed = TINY_NEEDLE_SEED + config.seed
    write_once(place, lambda path: write_needles(path, count=NEEDLES, seed=seed))
    return read_needles(place / NEEDLES_FILE)


def make_haystack(config: VniahConfig, folder: Path) -> str:
    """A video with as many frames at 1 frame/s as the grid asks for; made once."""
    seconds = max(config.frames)
    world = "" if config.world == "cards" else f"-{config.world}"
    path = folder / f"haystack{world}-{seconds}-seed{config.seed}.mp4"
    if path.exists():
        return str(path)
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("making a haystack of %d frames: %s", seconds, path)
    if config.world == "cards":
        write_haystack_video(path, seconds=seconds, seed=config.seed)
    else:
        write_haystack(path, seconds=seconds, seed=TINY_HAYSTACK_SEED + config.seed)
    return str(path)
