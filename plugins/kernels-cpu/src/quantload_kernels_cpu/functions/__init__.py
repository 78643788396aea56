"""The functions that are compiled for a layout."""
