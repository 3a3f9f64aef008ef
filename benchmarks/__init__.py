"""Measurements to quote: each contender in its own process, one thread, alternating rounds, medians."""
