"""What `bench_rollout.py` measures and with what: the workload, the contenders, the clock."""
