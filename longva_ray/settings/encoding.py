"""Settings of encoding: videos -> embedding shards."""

import dataclasses
from typing import ClassVar

from longva_ray.settings.base import Dtype, Settings
from longva_ray.video.canvas import Resize
from longva_ray.video.fitting import Fitting, check_fitting
from longva_ray.video.probe import DecoderName
from longva_ray.video.sampling import Sampling


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig(Settings):
    """How videos become embedding shards."""

    stage: ClassVar[str] = "encode"
    sampling: str = "1fps"
    """Which frames: `1fps` (section 4 of the paper) is the frame shown at each second,
    `1fps-by-count` every round(rate)-th frame as in the released code; or another rate,
    `uniform:128`, or `every`."""
    dtype: Dtype = "bfloat16"
    """Number format of the encoder and of the stored tokens; the released model runs in 16 bits."""
    micro_batch: int = 32
    """Frames in one forward pass of the vision tower. Bounds its memory, whatever the length of the
    video."""
    part_frames: int = 64
    """Frames in one shard file: the unit of work, of resuming and of a disk read."""
    decoder: DecoderName = "pyav"
    """What decodes: PyAV, or decord, which is slower and does not notice damage
    (`video.decode`)."""
    fitting: Fitting | None = None
    """How frames are put on the tower's square: `letterbox`, `letterbox_mean`, `center_crop` or
    `squash` (`video.fitting`). None, as the checkpoint says: the released ones crop videos."""
    resize: Resize = "decoder"
    """What scales frames: the decoder, which is faster, or Pillow, as in the released code
    (`video.canvas`)."""
    decode_cpus: float = 0.9
    """CPUs that Ray reserves for one decoding task."""
    encoder_cpus: float = 1.0
    """CPUs that Ray reserves for one encoder actor."""
    encoder_gpus: float = 1.0
    """GPUs that Ray reserves for one encoder actor; 0 encodes on CPUs."""
    max_encoders: int | None = None
    """Most encoder actors. None means as many as the GPUs of the cluster hold now, or one without
    GPUs. An autoscaling cluster may show no GPU at first; a number tells it how far to grow."""

    def __post_init__(self) -> None:
        Sampling.parse(self.sampling)
        check_fitting(self.option("fitting"), self.fitting)
        self.check_at_least(1, "micro_batch", "part_frames", "max_encoders")
        self.check_above(0, "decode_cpus", "encoder_cpus")
