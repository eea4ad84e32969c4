"""Comparisons of methods over seeds: arms, runs, statistics, tables."""
