"""Code that runs on the far side: the zygote that slots are cloned from, the reaper that looks after them,
and the supervisor that is pid 1 of each.

Standard library only: it is shipped as an archive to an interpreter started with `-I -S -E` and an empty
environment, and every module is loaded before the slot loses sight of the host's files.
"""
