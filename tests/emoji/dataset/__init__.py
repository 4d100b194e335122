"""Builds pictures of emoji with their Chinese and English texts from published packages."""
