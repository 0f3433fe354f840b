"""The vocabulary of the analysis: what is observed, and what is concluded from it.

Everything here is pure: the standard library and numpy only. Time and step arrive as arguments, so replaying the same
inputs in the same order gives the same findings, bit for bit.
"""
