"""What a study is made of: settings, cells, a journal of what is finished, and reports.

    settings   one TOML file: models, prompts, the readings of what the paper leaves open
    cells      what is measured: measure x model x steering x strength x seed x block of prompts
    bench      one loaded model, with the circuits and vectors found on it
    measures   a cell on a bench gives plain data: labels, scores, hashes, neurons
    running    cells that are not in the journal yet, one model after the other
    on_ray     the same on a Ray cluster, models side by side
    planning   what is still to do, without doing it
    reporting  a table with our values beside the paper's

An experiment names its cells and makes a report of their values; see `experiment`.
"""
