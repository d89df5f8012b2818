"""What backends that generate code have in common: strided views of buffers, and fused nodes."""
