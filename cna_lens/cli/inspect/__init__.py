"""A model provider for Inspect: `inspect eval TASK --model cna/MODEL -M circuit=FILE`."""
