"""What must be C: built from ``ext/*.pyx`` by setup.py. Everything above here is Python."""
