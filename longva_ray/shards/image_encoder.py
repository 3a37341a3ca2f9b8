"""An image file -> visual tokens, exactly as alignment makes them.

    bytes -> PIL image -> Cut -> tokens_SD

The image is cut by what cuts those of training (`vision.encoding`), and its tokens are put in order
by what does that there (`FrameEncoder.arrange`). No Ray in here.

Shapes: S visual tokens, D width of the language model.
"""

from typing import Any

import torch

from longva_ray.files.places import read_file
from longva_ray.lm.load import load_frame_encoder
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.images import ImageSpec, ImageStore, image_id_of, image_spec
from longva_ray.vision.frame_encoder import FrameEncoder
from longva_ray.vision.read_image import ImageError, opened_image


class ImageEncoder:
    """Encodes images into a store, each once."""

    def __init__(
        self,
        encoder: FrameEncoder,
        spec: ImageSpec,
        store: ImageStore,
        *,
        max_pixels: int | None = None,
    ) -> None:
        """
        Args:
            encoder: that of `spec`, on the device where it is to run.
            max_pixels: most pixels of an image; None, as many as Pillow opens.
        """
        self._encoder = encoder
        self._spec = spec
        self._store = store
        self._max_pixels = max_pixels

    def __call__(self, content: bytes, what: str) -> str:
        """The id of an image, given by the content of its file; it is encoded unless it is there.

        Raises ImageError, which calls it `what`, when it cannot be read."""
        image_id = image_id_of(content)
        if not self._store.is_there(image_id, self._spec):
            self._store.write(image_id, self._spec, self.tokens(content, what))
        return image_id

    @torch.inference_mode()
    def tokens(self, content: bytes, what: str) -> torch.Tensor:
        """tokens_SD on the CPU. Raises ImageError as above, and FloatingPointError for weights that
        make no finite ones."""
        with opened_image(content, what, self._max_pixels) as image:
            cut = self._spec.grids.image(image)
        source_S2 = torch.from_numpy(cut.source_S2)
        micro_batch = self._spec.micro_batch
        tokens_SD = self._encoder.encode_images(cut.grids_GYXC, source_S2, micro_batch)
        return self._encoder.check_finite(tokens_SD).cpu()


class EncodeImage:
    """Worker of a graph: the place of an image -> its id, or why it cannot be read."""

    def __init__(self, checkpoint: str, config: EncodeConfig, store: str) -> None:
        self._encode, _ = load_image_encoder(checkpoint, config, ImageStore(store))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One row of columns, as Ray Data hands it out."""
        image_id, error = "", ""
        try:
            image_id = self._encode(read_file(str(batch["path"][0])), "it")
        except (ImageError, FloatingPointError) as wrong:
            error = str(wrong)
        except OSError as wrong:
            error = f"it cannot be read: {wrong}"
        return batch | {"image_id": [image_id], "error": [error]}


def load_image_encoder(
    checkpoint: str, config: EncodeConfig, store: ImageStore
) -> tuple[ImageEncoder, ImageSpec]:
    """The image encoder of a checkpoint, on this process's GPU if it sees one, and what it encodes
    like."""
    encoder = load_frame_encoder(checkpoint, dtype=getattr(torch, config.dtype))
    spec = image_spec(checkpoint, encoder.fingerprint(), config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return ImageEncoder(encoder.to(device), spec, store), spec
