"""Which videos a list of files and folders stands for."""

import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pyarrow.fs

from longva_ray.files.places import absolute, child, file_name, is_uri, open_place

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".ogv"),
}


def find_videos(places: Sequence[str]) -> list[str]:
    """Video files of a list of files and folders, each a path or a URI. A folder gives its videos,
    sorted by name.

    Files are taken whatever their suffix and need not exist: the run's report says what is wrong
    with them. The log counts what was left out of a folder: other files, and folders inside.

    Raises ValueError when a folder holds no videos.
    """
    found: list[str] = []
    for place in places:
        place = absolute(place)
        inside = None if _is_video_name(place) and is_uri(place) else list_folder(place)
        if inside is None:
            found.append(place)
            continue
        videos = [file for file in inside if _is_video_name(file)]
        others, folders = len(inside) - len(videos), _count_folders(place)
        left_out = f"{others} other file(s) and {folders} folder(s)"
        if not videos:
            raise ValueError(
                f"no videos ({', '.join(sorted(VIDEO_SUFFIXES))}) in folder {place}, but "
                f"{left_out}; name the files, or the folder that they are in"
            )
        if others or folders:
            logger.warning(
                "%s gives %d video(s); %s are left out: name them if they hold videos too",
                place,
                len(videos),
                left_out,
            )
        found.extend(videos)
    return found


def list_folder(place: str) -> list[str] | None:
    """The files of a folder by name, as places of the same kind, without folders inside; None for
    what is no folder or cannot be reached."""
    try:
        filesystem, path = open_place(place)
        if filesystem.get_file_info(path).type != pyarrow.fs.FileType.Directory:
            return None
        inside = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
    except (OSError, ValueError, ImportError):
        return None
    names = sorted(
        Path(entry.path).name for entry in inside if entry.type == pyarrow.fs.FileType.File
    )
    if not is_uri(place):
        return [child(path, name) for name in names]
    if not isinstance(filesystem, pyarrow.fs.PyFileSystem):  # pyarrow decodes its URIs, fsspec not
        names = [quote(name) for name in names]
    return [child(place, name) for name in names]


def _count_folders(place: str) -> int:
    filesystem, path = open_place(place)
    inside = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
    return sum(entry.type == pyarrow.fs.FileType.Directory for entry in inside)


def _is_video_name(place: str) -> bool:
    return Path(file_name(place)).suffix.lower() in VIDEO_SUFFIXES
