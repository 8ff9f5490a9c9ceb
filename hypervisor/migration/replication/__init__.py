"""Continuous replication: a second monitor holds the guest's last epoch, and takes over when the first one dies.

Reading order: ``messages``, ``fence``, ``primary``, ``backup``; ``devices/outlet.py`` is what holds output.
"""
