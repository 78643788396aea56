"""A whole method as an author would write it: int8 rows with a scale each."""
