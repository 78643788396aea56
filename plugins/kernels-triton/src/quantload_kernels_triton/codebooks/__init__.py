"""Weights as sums of codebook entries: a code of each codebook for every eight columns."""
