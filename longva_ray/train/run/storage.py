"""The folder of a run, local or at a URI: whether it can be used, and how metrics get there.

What it does not do: checkpoints, which Ray Train uploads.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from longva_ray.files.folder import upload
from longva_ray.files.places import open_place
from longva_ray.train.run.ray_internals import INDEX_NAME
from longva_ray.train.run.trackers import METRICS

logger = logging.getLogger(__name__)


def probe_storage(storage: str, name: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """File system and root of `storage`, after writing, reading and deleting a file in it.

    Raises ValueError with what failed.
    """
    probe = b"longva"
    try:
        filesystem, root = open_place(storage)
        folder = f"{root}/{name}"
        filesystem.create_dir(folder, recursive=True)
        path = f"{folder}/.probe"
        with filesystem.open_output_stream(path) as writer:
            writer.write(probe)
        with filesystem.open_input_stream(path) as reader:
            found = reader.read()
        filesystem.delete_file(path)
    except (OSError, pa.ArrowException, ImportError) as error:
        raise ValueError(
            f"storage {storage!r} cannot be written, read and cleared from here: {error}; give a "
            "folder or URI that this machine and all workers may write to"
        ) from error
    if found != probe:
        raise ValueError(f"storage {storage!r} returned other bytes than were written")
    return filesystem, root


def drop_damaged_index(filesystem: pyarrow.fs.FileSystem, folder: str) -> None:
    """Delete Ray Train's list of a run's checkpoints when it cannot be read.

    Ray writes it in place, so a full disk or a kill can cut it short, and no run with such a list
    starts again. `find_checkpoint` needs no list.
    """
    path = f"{folder}/{INDEX_NAME}"
    if filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
        return
    with filesystem.open_input_stream(path) as reader:
        content = reader.read()
    try:
        json.loads(content)
    except ValueError:
        logger.warning("%s was cut short, and is deleted; the checkpoints are not", path)
        filesystem.delete_file(path)


@contextlib.contextmanager
def tracker_folder(
    filesystem: pyarrow.fs.FileSystem, target: str, *, remote: bool
) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Where trackers write, and what copies it to the run's folder. They are the same, unless the
    run's folder is a URI."""
    if not remote:
        yield Path(target), lambda: None
        return

    def publish() -> None:
        try:
            upload(Path(folder), filesystem, target)
        except OSError as error:
            logger.warning("the metrics could not be copied to %s: %s", target, error)

    with tempfile.TemporaryDirectory(prefix="longva-run-") as folder:
        earlier = f"{target}/{METRICS}"  # which a run that goes on continues
        if filesystem.get_file_info(earlier).type == pyarrow.fs.FileType.File:
            pyarrow.fs.copy_files(
                earlier,
                f"{folder}/{METRICS}",
                source_filesystem=filesystem,
                destination_filesystem=pyarrow.fs.LocalFileSystem(),
            )
        try:
            yield Path(folder), publish
        finally:
            publish()
