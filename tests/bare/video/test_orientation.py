"""Pictures come out upright: all eight ways to store one, from the header and from the stream."""

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from counting_files import DECODERS

from longva_ray.video.decode import decode_frames
from longva_ray.video.fitting import Fitting
from longva_ray.video.orientation import Orientation, orientation_from_matrix
from longva_ray.video.probe import DecoderName, VideoInfo, probe_video
from longva_ray.video.write import write_video

av = pytest.importorskip("av")

COLORS = np.array([[(220, 20, 20), (20, 220, 20)], [(20, 20, 220), (220, 220, 220)]], np.uint8)
STORED_YXC = COLORS.repeat(32, axis=0).repeat(64, axis=1)
"""Red and green above blue and white, twice as wide as high."""

MATRICES = [
    matrix
    for signs in product((1, -1), repeat=2)
    for matrix in ((signs[0], 0, 0, signs[1]), (0, signs[0], signs[1], 0))
]
"""a b c d of the eight ways: (X, Y) is shown at (aX + cY, bX + dY)."""


def shown(stored_YXC: npt.NDArray[np.uint8], matrix: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Every pixel where the matrix puts it, with what is left of zero moved back."""
    a, b, c, d = matrix
    height, width, _ = stored_YXC.shape
    y_YX, x_YX = np.mgrid[:height, :width]
    new_x_YX, new_y_YX = a * x_YX + c * y_YX, b * x_YX + d * y_YX
    new_x_YX -= new_x_YX.min()
    new_y_YX -= new_y_YX.min()
    shown_YXC = np.zeros((new_y_YX.max() + 1, new_x_YX.max() + 1, 3), dtype=np.uint8)
    shown_YXC[new_y_YX, new_x_YX] = stored_YXC
    return shown_YXC


def write_with_matrix(path: Path, matrix: tuple[int, ...]) -> None:
    """An MP4 whose track header has the matrix, in fixed point, beside u v x y = 0 and w = 1."""
    write_video(path, [STORED_YXC] * 10, fps=10)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = (value * 2**16 for value in matrix)
    content[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 2**30], ">i4").tobytes()
    path.write_bytes(content)


def check_pictures(info: VideoInfo, wanted_YXC: npt.NDArray[np.uint8]) -> None:
    assert (info.height, info.width) == wanted_YXC.shape[:2]
    height, width, _ = wanted_YXC.shape
    fittings: tuple[Fitting, ...] = ("squash", "letterbox", "center_crop")
    for fitting in fittings:
        chunks = decode_frames(info, np.array([4, 7]), size=32, fitting=fitting, chunk_frames=2)
        for frame_YXC in next(chunks).frames_FYXC.astype(int):
            for y, x in product((12, 19), repeat=2):
                wanted_C = wanted_YXC[height * y // 32, width * x // 32]
                assert np.abs(frame_YXC[y, x] - wanted_C).max() < 25, (fitting, y, x)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("matrix", MATRICES)
def test_the_matrix_of_the_header(
    tmp_path: Path, matrix: tuple[int, ...], decoder: DecoderName
) -> None:
    path = tmp_path / "turned.mp4"
    write_with_matrix(path, matrix)
    check_pictures(probe_video(path, decoder=decoder), shown(STORED_YXC, matrix))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    ("turn", "flip"), list(product((0, 90, 180, 270), ("", "horizontal", "vertical")))[1:]
)
def test_the_message_in_the_stream(
    tmp_path: Path, turn: int, flip: str, suffix: str, decoder: DecoderName
) -> None:
    """H.264's display orientation: flip first, then turn counterclockwise."""
    from av.bitstream import BitStreamFilterContext

    plain, path = tmp_path / "plain.mp4", tmp_path / f"message.{suffix}"
    write_video(plain, [STORED_YXC] * 10, fps=10)
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        source = old.streams.video[0]
        stream = new.add_stream_from_template(source)
        options = f"display_orientation=insert:rotate={turn}" + (f":flip={flip}" if flip else "")
        insert = BitStreamFilterContext(f"h264_metadata={options}", source, stream)
        for packet in old.demux(source):
            for changed in insert.filter(packet if packet.size else None):
                changed.stream = stream
                new.mux(changed)
    flipped_YXC = STORED_YXC
    if flip:
        flipped_YXC = STORED_YXC[:, ::-1] if flip == "horizontal" else STORED_YXC[::-1]
    check_pictures(probe_video(path, decoder=decoder), np.rot90(flipped_YXC, k=turn // 90))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_is_written_clockwise(tmp_path: Path, rotation: int, decoder: DecoderName) -> None:
    path = tmp_path / "turned.mp4"
    write_video(path, [STORED_YXC] * 10, fps=10, rotation=rotation)
    info = probe_video(path, decoder=decoder)
    assert info.orientation == Orientation(rotation=rotation)
    check_pictures(info, np.rot90(STORED_YXC, k=-rotation // 90))


@pytest.mark.parametrize("scale", [(1, 1), (3, 1), (1, 5), (65536, 32768)])
@pytest.mark.parametrize("matrix", MATRICES)
def test_scaling_does_not_change_the_orientation(
    matrix: tuple[int, ...], scale: tuple[int, int]
) -> None:
    a, b, c, d = matrix
    scaled = (a * scale[0], b * scale[1], 0, c * scale[0], d * scale[1], 0, 0, 0, 2**30)
    upright_YXC = orientation_from_matrix(scaled).upright(STORED_YXC)
    np.testing.assert_array_equal(upright_YXC, shown(STORED_YXC, matrix))


@pytest.mark.parametrize("degrees", [-40, -10, 10, 40])
@pytest.mark.parametrize("quarter", [0, 90, 180, 270])
def test_other_angles_are_rounded_to_a_quarter_turn(quarter: int, degrees: int) -> None:
    angle = np.radians(quarter + degrees)
    a, b = round(65536 * np.cos(angle)), round(65536 * np.sin(angle))
    assert orientation_from_matrix((a, b, 0, -b, a)) == Orientation(rotation=quarter)
    # A mirror from left to right comes first.
    mirrored = Orientation(rotation=quarter, is_mirrored=True)
    assert orientation_from_matrix((-a, -b, 0, -b, a)) == mirrored


@pytest.mark.parametrize("matrix", [(0,) * 9, (1, 1, 0, 1, 1, 0, 0, 0, 1)])
def test_a_matrix_without_an_area_is_ignored(matrix: tuple[int, ...]) -> None:
    assert orientation_from_matrix(matrix) == Orientation()
