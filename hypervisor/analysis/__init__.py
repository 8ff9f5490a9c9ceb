"""Experiments on the bare emulated CPU, without a monitor: what an instruction does in which ring."""
