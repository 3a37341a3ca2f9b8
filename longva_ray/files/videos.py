"""Which videos a list of files and folders stands for."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
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
        listing = None if _is_video_name(place) and is_uri(place) else list_folder(place)
        if listing is None:
            found.append(place)
            continue
        videos = [file for file in listing.files if _is_video_name(file)]
        others, folders = len(listing.files) - len(videos), listing.num_folders
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


def check_any_is_there(videos: Sequence[str]) -> None:
    """Raises ValueError if all of these are paths and none exists. One that is missing among others
    is the report's to tell."""
    if videos and not any(is_uri(video) or Path(video).exists() for video in videos):
        raise ValueError(f"no video {videos[0]!r} here; give a file, a folder of videos, or a URI")


class Listing(NamedTuple):
    """What is in a folder."""

    files: list[str]
    """By name, as places of the same kind as the folder."""
    num_folders: int


def list_folder(place: str) -> Listing | None:
    """What is in a folder; None for what is no folder or cannot be reached."""
    try:
        filesystem, path = open_place(place)
        if filesystem.get_file_info(path).type != pyarrow.fs.FileType.Directory:
            return None
        inside = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
    except (OSError, ValueError, ImportError):
        return None
    files = [entry for entry in inside if entry.type == pyarrow.fs.FileType.File]
    names = sorted(Path(entry.path).name for entry in files)
    # pyarrow decodes its URIs, fsspec does not.
    if is_uri(place) and not isinstance(filesystem, pyarrow.fs.PyFileSystem):
        names = [quote(name) for name in names]
    folder = place if is_uri(place) else path
    num_folders = sum(entry.type == pyarrow.fs.FileType.Directory for entry in inside)
    return Listing([child(folder, name) for name in names], num_folders)


def _is_video_name(place: str) -> bool:
    return Path(file_name(place)).suffix.lower() in VIDEO_SUFFIXES
