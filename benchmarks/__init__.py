"""Benchmarks: how long the project's own work takes beside a reference in the same run.

A time alone says as much about the machine as about the code. Each measurement therefore runs ours
and a reference in turns, is read by their ratio, and is held against what the machine can do at
best. A new benchmark is a function of a workload and a machine that yields measurements, and a name
for it in `benchmarks.running.BENCHMARKS`.
"""
