"""Experiments of published papers, run again: their tables beside ours, and claims that a machine checks."""
