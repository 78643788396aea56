"""The kernels themselves. Importing these modules imports triton."""
