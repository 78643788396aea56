"""The bridge into `transformers`: the only place that imports it."""
