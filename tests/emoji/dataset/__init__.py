"""Builds a data set of emoji images with Chinese and English texts from published packages."""
