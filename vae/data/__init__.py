"""Readers of data sets: files or drawings in, a Dataset of uint8 arrays out."""
