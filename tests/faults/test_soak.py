"""The soak, a hundred runs of it; and that it fails when a repair of the procedure is taken out."""

from pathlib import Path

import pytest
from msgspec import structs

from tests.faults.soak.__main__ import cases, parse, soak

pytestmark = pytest.mark.faults

RUNS = 100


async def test_nothing_is_lost_or_sent_twice_in_a_hundred_runs_of_faults(tmp_path: Path) -> None:
    every = cases()
    todo = [(every[number % len(every)], f"h{number}") for number in range(RUNS)]
    assert await soak(todo, 2, tmp_path, 15400) == 0


@pytest.mark.parametrize(
    ("broken", "text", "slow"),
    [
        ("order", "none:after_ticket:exit:0.1", 0.0),
        ("recovery", "workers", 0.0),
        ("lease", "stops", 0.0),
        ("guard", "none:ticket_wire:stop:0.05", 0.1),
    ],
)
async def test_the_soak_fails_without(broken: str, text: str, slow: float, tmp_path: Path) -> None:
    case = structs.replace(parse(text), broken=broken, slow=slow)
    for number in range(8):
        if await soak([(case, f"b{number}")], 1, tmp_path, 15600) > 0:
            return
    pytest.fail(f"eight runs without {broken} and the soak saw nothing")
