"""The parts of a study: settings, cells, a journal of finished cells, and reports.

    settings   one TOML file: models, prompts, and readings of points that the paper leaves open
    cells      the units of measurement: measure x model x steering x strength x seed x block
    bench      one loaded model, with the circuits and vectors found on it
    measures   turn a cell on a bench into plain data: labels, scores, hashes, neurons
    running    runs the cells that are not in the journal yet, one model after the other
    on_ray     does the same on a Ray cluster, models side by side
    planning   tells the remaining work without doing it
    reporting  a table with our values beside the paper's

An experiment names its cells and makes a report of their values; see `experiment`.
"""
