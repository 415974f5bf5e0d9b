"""Measure clients in one process: the ratios of their costs depend less on the process than the costs do.

In each cycle every client does a short block of exchanges, in an order that is drawn anew, and its block is compared to
that of the hand-written one. A round is a number of cycles; its figure is their median. A round in which the
hand-written client does not come out equal to itself, within 5 %, is discarded and repeated.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import uvloop

from benchmarks.client import Client, Contender, Tls
from benchmarks.contenders import SIDE_BY_SIDE, installed
from benchmarks.measure import Block, run_block, warm_up
from benchmarks.stub import pin

BASELINE: Final = "hand-written"
CONTROL: Final = "hand-written again"


@attrs.frozen(kw_only=True)
class Plan:
    """The measurement that a process carries out.

    Attributes:
        url: The base URL.
        authority: The file with the authority's certificate; None for plain http.
        concurrency: Exchanges at a time.
        count: Exchanges in a block.
        cycles: Blocks of each client in a round.
        rounds: Rounds with a good control.
        tolerance: How far the control of a good round may be from 1.
        spare: Rounds that may be discarded.
        names: The clients; None for all.
    """

    url: str
    authority: str | None
    concurrency: int
    count: int
    cycles: int
    rounds: int
    tolerance: float
    spare: int
    names: Sequence[str] | None = None


@attrs.frozen
class Comparison:
    """The results of the rounds.

    Attributes:
        rounds: For each round with a good control, for each client, its ratios to the hand-written one.
        discarded: The ratios of the control in the other rounds.
        blocks: For each client, the medians of its blocks.
    """

    rounds: Sequence[Mapping[str, Mapping[str, float]]]
    discarded: Sequence[float]
    blocks: Mapping[str, Mapping[str, float]]

    def ratio(self, name: str, figure: str = "cpu", to: str = BASELINE) -> float:
        """The median of the rounds."""
        return statistics.median(self.ratios(name, figure, to))

    def ratios(self, name: str, figure: str = "cpu", to: str = BASELINE) -> list[float]:
        """The ratio in each round."""
        return [made[name][figure] / made[to][figure] for made in self.rounds]


class Field:
    """The clients, each in its loop, with its connections open."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._loops = {False: asyncio.new_event_loop(), True: uvloop.new_event_loop()}
        self._contenders = installed({name: SIDE_BY_SIDE[name] for name in plan.names or SIDE_BY_SIDE})
        self._clients: dict[str, Client] = {}
        tls = None if plan.authority is None else Tls(plan.authority)
        for name, contender in self._contenders.items():
            self._clients[name] = self._run(name, self._make(contender, tls))
            self._run(name, warm_up(self._clients[name], concurrency=plan.concurrency))
        # No app has the objects of ten clients, and a garbage collection of them all would be charged to one client.
        gc.freeze()

    async def _make(self, contender: Contender, tls: Tls | None) -> Client:
        return contender.make(self._plan.url, tls)

    def _run(self, name: str, coroutine: Any) -> Any:
        return self._loops[self._contenders[name].uvloop].run_until_complete(coroutine)

    def cycle(self) -> dict[str, Block]:
        """One block of each client."""
        order = list(self._clients)
        random.shuffle(order)
        gc.collect()
        return {
            name: self._run(
                name, run_block(self._clients[name], count=self._plan.count, concurrency=self._plan.concurrency)
            )
            for name in order
        }

    def close(self) -> None:
        """Close the clients and their loops."""
        for name, client in self._clients.items():
            self._run(name, client.close())
        for loop in self._loops.values():
            loop.run_until_complete(asyncio.sleep(0.05))
            loop.close()


def compare(plan: Plan) -> Comparison:
    """Measure as planned."""
    field = Field(plan)
    rounds: list[dict[str, dict[str, float]]] = []
    discarded: list[float] = []
    blocks: dict[str, list[Block]] = {}
    while len(rounds) < plan.rounds and len(discarded) <= plan.spare:
        cycles = [field.cycle() for _ in range(plan.cycles)]
        ratios = {name: _ratios(cycles, name) for name in cycles[0]}
        control = ratios[CONTROL]["cpu"]
        if abs(control - 1) > plan.tolerance:
            discarded.append(control)
            continue
        rounds.append(ratios)
        for cycle in cycles:
            for name, block in cycle.items():
                blocks.setdefault(name, []).append(block)
    field.close()
    return Comparison(rounds, discarded, {name: _medians(made) for name, made in blocks.items()})


def _ratios(cycles: Sequence[Mapping[str, Block]], name: str) -> dict[str, float]:
    return {
        field.name: statistics.median(
            getattr(cycle[name], field.name) / getattr(cycle[BASELINE], field.name) for cycle in cycles
        )
        for field in attrs.fields(Block)
    }


def _medians(blocks: Sequence[Block]) -> dict[str, float]:
    return {
        field.name: statistics.median(getattr(block, field.name) for block in blocks) for field in attrs.fields(Block)
    }


def main() -> None:
    pin(to_server=False)
    print(json.dumps(attrs.asdict(compare(Plan(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
