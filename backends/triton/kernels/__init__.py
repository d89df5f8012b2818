"""Device functions that generated kernels are made of. Importing a module here imports triton."""
