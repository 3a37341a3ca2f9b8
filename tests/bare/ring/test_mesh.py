"""Data parallel x ring groups on real processes, and the equation in the error."""

import pytest
import torch.distributed as dist
from worker_pool import WorkerPool

from longva_ray.ring.mesh import make_mesh


def groups(group: dist.ProcessGroup, ring_size: int, data_size: int | None) -> dict[str, object]:
    """Job: this rank's place and the members of its groups."""
    mesh = make_mesh(ring_size=ring_size, data_size=data_size)
    assert mesh.ring_group is not None
    return {
        "sizes": (mesh.data_size, mesh.ring_size),
        "place": (mesh.data_rank, mesh.ring_rank),
        "ring": dist.get_process_group_ranks(mesh.ring_group),
        "world": dist.get_world_size(mesh.world_group),
    }


@pytest.mark.parametrize("data_size", [2, None])
def test_two_rings_of_two_neighbours(pool: WorkerPool, data_size: int | None) -> None:
    places = pool.run(groups, 4, 2, data_size)
    assert [p["ring"] for p in places] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [p["place"] for p in places] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {p["sizes"] for p in places} == {(2, 2)}
    assert {p["world"] for p in places} == {4}


@pytest.mark.parametrize(
    ("ring_size", "rings"), [(4, [[0, 1, 2, 3]] * 4), (1, [[0], [1], [2], [3]])]
)
def test_all_ring_or_all_data(pool: WorkerPool, ring_size: int, rings: list[list[int]]) -> None:
    assert [p["ring"] for p in pool.run(groups, 4, ring_size, None)] == rings


def wrong_product(group: dist.ProcessGroup, ring_size: int, data_size: int | None) -> str:
    """Job: the message."""
    with pytest.raises(ValueError, match="world size") as caught:
        make_mesh(ring_size=ring_size, data_size=data_size)
    return str(caught.value)


def test_wrong_products_show_the_equation(pool: WorkerPool) -> None:
    (message, *_) = pool.run(wrong_product, 4, 3, None)
    assert "1 x 3 = 3, but the world has 4 processes" in message
    (message, *_) = pool.run(wrong_product, 4, 2, 4)
    assert "4 x 2 = 8, but the world has 4 processes" in message


def test_one_process_needs_no_groups() -> None:
    mesh = make_mesh(ring_size=1)
    assert (mesh.ring_group, mesh.world_group) == (None, None)
    assert (mesh.data_size, mesh.ring_size, mesh.data_rank, mesh.ring_rank) == (1, 1, 0, 0)
    with pytest.raises(ValueError, match=r"0 x 2 = 0, but the world has 1 processes"):
        make_mesh(ring_size=2)
    with pytest.raises(ValueError, match="at least 1"):
        make_mesh(ring_size=0)
