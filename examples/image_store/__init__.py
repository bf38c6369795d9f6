"""A store for disk images over HTTP: what is uploaded goes to the disk in chains, with its checksum, and without its empty parts.

Shows: an operation of one's own (filled.bpf.c) from its C source to `await`, and chains in which numbers are carried from link to link: each block
       of an upload is received, summed (CRC-32C), measured by that operation, and written as far as it has data, as one thing to await. What is
       sent was read and summed in the same way, and the last block of it only when the sum is that of the upload.
Run:   python -m aiouring build-op examples/image_store/filled.bpf.c
       python -m examples.image_store FOLDER     (--host and --port choose where it listens, --engine what runs the operations)
Try:   truncate -s 1G disk.img
       curl -T disk.img http://127.0.0.1:8020/disk.img        (and `du FOLDER`: nothing of it takes space there)
       curl -o copy.img http://127.0.0.1:8020/disk.img
"""
