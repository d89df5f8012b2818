"""The backend for NVIDIA GPUs: generated Triton kernels. Importing `lower` and `backend` registers it; importing either
needs no triton."""
