"""The soak, a hundred runs of it; and that it fails when a repair of the procedure is taken out."""

import asyncio
from pathlib import Path

import pytest
from tests.faults.soak.__main__ import cases, parse, soak
from tests.faults.soak.run import Case

pytestmark = pytest.mark.faults

RUNS = 100


async def test_nothing_is_lost_or_sent_twice_in_a_hundred_runs_of_faults(tmp_path: Path) -> None:
    every = cases()
    todo = [(every[number % len(every)], f"h{number}") for number in range(RUNS)]
    assert await soak(todo, 2, tmp_path, 15400) == 0


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("order", "none:after_ticket:exit:0.1"),
        ("recovery", "workers"),
        ("lease", "stops"),
        ("guard", "none:ticket_wire:stop:0.05"),
    ],
)
async def test_the_soak_fails_without(broken: str, text: str, tmp_path: Path) -> None:
    case: Case = parse(text)
    for number in range(8):
        if await soak([(_without(case, broken), f"b{number}")], 1, tmp_path, 15600) > 0:
            return
        await asyncio.sleep(0)
    pytest.fail(f"eight runs without {broken} and the soak saw nothing")


def _without(case: Case, broken: str) -> Case:
    return Case(mode=case.mode, point=case.point, how=case.how, probability=case.probability, broken=broken)
