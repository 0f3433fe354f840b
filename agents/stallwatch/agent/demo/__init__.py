"""A small real training job with faults to order: what `stallwatch demo` runs, and a script to try the agent with.

A character GPT on the text of Python's own manual (`pydoc_data`, on every machine), trained with DistributedDataParallel.
Start it with torchrun: `torchrun --nproc-per-node 4 -m stallwatch.agent.demo --help`.
"""
