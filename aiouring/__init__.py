"""An asyncio event loop on Linux io_uring: the public names, nothing else."""
