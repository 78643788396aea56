"""`quantload new-plugin`: a complete package for a method that does not exist yet."""
