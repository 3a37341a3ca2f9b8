"""What the application has to be told: the arguments of `app.build_app`, in Python or in a Serve
config file."""

from pydantic import BaseModel, ConfigDict

from longva_ray.settings.answering import ServeConfig
from longva_ray.settings.encoding import EncodeConfig


class AppArgs(BaseModel):
    """What a deployment has to be told."""

    model_config = ConfigDict(extra="forbid")

    model_name: str
    checkpoint: str
    store: str
    allowed_roots: tuple[str, ...] = ()
    """Folders whose videos may be named by file:// URLs; none by default."""
    api_key: str | None = None
    """If set, requests must carry it as a bearer token."""
    encode: EncodeConfig = EncodeConfig()
    serve: ServeConfig = ServeConfig()
