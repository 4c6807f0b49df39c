"""Policies held against each other and against the exact optimum."""
