"""`video_url` -> video id: which URLs a server accepts, and what it says about others.

It accepts the id of an encoded video, and `file://` paths below a folder that the operator allowed.
Nothing is ever fetched from the network (`allowed_files`).
"""

from pathlib import Path

from longva_ray.serving.allowed_files import AllowedFiles
from longva_ray.serving.api import ApiError
from longva_ray.shards.schema import EncodingSpec, hash_video, is_video_id
from longva_ray.shards.store import ShardStore


class MediaLibrary:
    """The videos a server can talk about: those in the store, and files below the allowed roots."""

    def __init__(
        self,
        store: ShardStore,
        spec: EncodingSpec,
        files: AllowedFiles,
        encode_command: str,
    ) -> None:
        """`encode_command` is shown to a client that names a video that is not encoded."""
        self._store = store
        self._spec = spec
        self._files = files
        self._encode_command = encode_command
        self._hashes: dict[tuple[str, int, int], str] = {}

    def encoded_id(self, url: str) -> str:
        """The id in a URL that names an encoded video.

        Raises ApiError: 404 if the video is not encoded for this model.
        """
        if not self.is_encoded(url):
            raise ApiError(
                404,
                "video_not_encoded",
                f"video {url} is not encoded with {self._spec.sampling} sampling for this model; "
                f"encode it with `{self._encode_command}`; GET /v1/videos lists what there is",
            )
        return url

    def local_path(self, url: str) -> Path | None:
        """The file that a URL names, or None when the URL is a video id.

        Raises ApiError as `AllowedFiles.path`."""
        if is_video_id(url):
            return None
        return self._files.path(url, "video_url", "a video id (32 hex digits)")

    def hash(self, path: Path) -> str:
        """Video id of a file; remembered until the file's size or time changes."""
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = hash_video(path)
        return self._hashes[key]

    def is_encoded(self, video_id: str) -> bool:
        """Whether the store has that video, encoded as this server reads it."""
        return self._store.record(video_id, self._spec) is not None

    def listing(self) -> list[dict[str, object]]:
        """Every video that this server can be asked about, ready for JSON."""
        return [
            {
                "id": record.video_id,
                "object": "video",
                "source": record.source,
                "num_frames": record.num_frames,
                "duration_s": record.duration_s,
                "visual_tokens": record.num_frames * record.spec.tokens_per_frame,
                "sampling": record.spec.sampling,
                "frame_fitting": record.spec.fitting,
            }
            for record in self._store.records()
            if record.spec == self._spec
        ]
