"""Parts of `bench_rollout.py`: the workload, the contenders, the clock."""
