"""What sharing a model costs with `ray_zerocopy` and with what else one might pick, measured in one run.

`python -m benchmarks` starts one fresh process, with a Ray of its own, for each system and model, and writes tables,
charts and a JSON file.
"""
