"""``python -m tests.fuzz --networks 2000``: fuzz the package, print what was found."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.fuzz.checks import QUICK, THOROUGH, Depth, Outcome
from tests.fuzz.networks import recipe_of
from tests.fuzz.run import described, isolated, outcomes, reduce, summary, to_json, told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--networks", type=int, default=1, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="some checks of each network, as in the quick tests")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--reduce", metavar="CHECK", help="shrink the first seed's network while this check fails")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.networks)
    if given.worker:
        for outcome in outcomes(seeds, Depth(**json.loads(given.worker))):
            print(to_json(outcome), flush=True)  # noqa: T201
        return 0
    if given.reduce:
        print(reduced := reduce(recipe_of(given.first_seed), given.reduce))  # noqa: T201
        print(described(reduced))  # noqa: T201
        return 0
    depth = QUICK if given.quick else THOROUGH
    share = -(-len(seeds) // given.processes)
    parts = [seeds[i : i + share] for i in range(0, len(seeds), share)]
    found: list[Outcome] = []

    def watch(part: range) -> None:
        for outcome in isolated(part, depth):
            found.append(outcome)
            if outcome.faults:
                print(told(outcome), flush=True)  # noqa: T201

    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(watch, parts))
    print(summary(found))  # noqa: T201
    return int(any(o.faults for o in found))


if __name__ == "__main__":
    sys.exit(main())
