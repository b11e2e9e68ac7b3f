#!/usr/bin/env python3
"""Past one machine, on paper: what a clinic, a hospital and a national network ask of vaults, from figures that the benches measured.

    python3 benches/scaling.py            the table of docs/scaling.md, and a simulated day of each

Change FIGURES to those of your own machine (cargo bench, cargo bench --bench http). Needs nothing but Python 3.
"""

import math
import random

# Measured on 2 shared cores; see benches/NOTES.md.
FIGURES = {
    "single": 43_000,  # requests of one entry a second, 64 connections
    "batch": 110_000,  # entries a second in batches of 500
    "bytes": 900,  # on disk, an entry
    "verify": 647_000,  # entries a second, keyless, both cores
    "users": 10_000_000 / 0.242,  # entries a second, report of all users
    "commit": 0.000187,  # seconds a commit of one entry takes
    "filter": 12.6e6 / (64 * 65_536),  # bytes of memory an entry, for filters of ids and patients
}
SITES = {"clinic": 300_000, "hospital": 60_000_000, "national network": 60_000_000 * 400}
MONTH = 30 * 86_400
PEAK = 5  # the busiest minute of a day against its mean


def simulated_day(month, minutes=30, seed=7):
    """Waiting times in the busiest half hour: entries come at random, each alone; a commit takes whatever has come meanwhile."""
    rate = month / MONTH * PEAK
    chance = random.Random(seed)
    end, now, free, waiting, waits, most = minutes * 60, 0.0, 0.0, [], [], 0
    while now < end and len(waits) < 400_000:
        now += chance.expovariate(rate)
        while free <= now and waiting:
            taken, waiting = waiting, []
            begin = max(free, taken[0])
            free = begin + FIGURES["commit"] + len(taken) / FIGURES["single"]
            waits.extend(free - it for it in taken)
        waiting.append(now)
        most = max(most, len(waiting))
    waits.sort()
    return waits[len(waits) * 99 // 100] if waits else 0.0, most


def row(name, month):
    year = month * 12
    vaults = max(1, math.ceil(month / MONTH * PEAK / (FIGURES["single"] * 0.5)))
    each = year / vaults
    print(
        f"{name:<18} {month / MONTH:>10,.1f} {month / MONTH * PEAK:>10,.0f} {vaults:>7} {each * FIGURES['bytes'] / 1e9:>12,.1f}"
        f" {each / FIGURES['verify'] / 60:>12,.1f} {each / FIGURES['users']:>12,.1f} {each * FIGURES['filter'] / 1e9:>10,.2f}"
    )
    return month / vaults


def main():
    print(f"{'a year of a':<18} {'mean/s':>10} {'peak/s':>10} {'vaults':>7} {'GB a vault':>12} {'verify, min':>12} {'all users, s':>12} {'memory GB':>10}")
    shares = {name: row(name, month) for name, month in SITES.items()}
    print("\nthe busiest half hour of one vault, simulated: 99 % wait at most, and the most that waited for one commit")
    for name, month in shares.items():
        wait, most = simulated_day(month)
        print(f"{name:<18} {wait * 1000:>8.2f} ms {most:>8}")


if __name__ == "__main__":
    main()
