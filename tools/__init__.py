"""What is run in a checkout: by the Makefile, by setup.py (the two files about BPF), or by hand."""
