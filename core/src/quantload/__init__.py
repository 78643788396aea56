"""quantload."""
