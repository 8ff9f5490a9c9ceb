"""The way of an address through the page tables."""
