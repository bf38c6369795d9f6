"""The benchmark suite; `make bench` runs it. benchmarks/README.md says what lies where."""
