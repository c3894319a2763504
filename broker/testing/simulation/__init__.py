"""Whole brokers in a world of one seed: clock, network, store and sites under a scheduler that draws every order.

    run (the world of one seed) → users | replicas → network → sites;   history → checker (the ten invariants)

Nothing here waits: time is the loop's own, and jumps to the next moment at which something happens. One seed is one
history, to the last byte; `python -m broker.testing.simulation SEED` tells it.
"""
