"""What a CLIP tower's configuration says of its grids and layers; loads no model class.

transformers' model classes take seconds to import, which a command that only reads a checkpoint's
configuration need not wait for.
"""

from transformers import CLIPVisionConfig


def grid_and_patch_side(vision_config: CLIPVisionConfig) -> tuple[int, int]:
    """Grid side in pixels and in patches."""
    image_size, patch_size = vision_config.image_size, vision_config.patch_size
    if not isinstance(image_size, int) or not isinstance(patch_size, int):
        raise ValueError(
            "UniRes grids are square: want integers for image_size and patch_size, got "
            f"{image_size!r} and {patch_size!r}"
        )
    return image_size, image_size // patch_size


def num_layers_used(config: CLIPVisionConfig, feature_layer: int) -> int:
    """How many layers produce `hidden_states[feature_layer]` (entry 0: the embedding's output).

    Raises:
        ValueError: the tower has no such layer, or it is the embedding itself.
    """
    entries = config.num_hidden_layers + 1
    layers = feature_layer if feature_layer >= 0 else entries + feature_layer
    if not 1 <= layers < entries:
        raise ValueError(
            f"vision_feature_layer={feature_layer} selects no layer of a tower with "
            f"{config.num_hidden_layers}; want 1..{entries - 1} or -1..-{entries - 1}"
        )
    return layers
