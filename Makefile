# Everything long, with seeds: hours. `make slice` takes minutes. See docs/reliability.md.
torture:
	tests/torture.sh

slice:
	tests/torture.sh slice

.PHONY: torture slice
