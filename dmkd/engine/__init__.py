"""Hands out blocks to workers, in this process or on Ray, and follows what becomes of them. Knows no images."""
