"""`melfusion bench`: how fast training, generation, precompute and loading are, beside the setting of the released code.

    options.py     sizes
    sections.py    the sections by name
    setting.py     a size → configurations, systems and batches; the setting of the released code
    timing.py      calls in turn, A B A B …; a figure with its raw values; peak memory
    counted.py     the FLOPs of a sample and of a clip
    machine.py     how fast this machine multiplies matrices
    training.py    samples/s live and cached, beside the reference; a bare loop
    fitting.py     the real Trainer beside the bare loop: overhead, wait for data, checkpoints
    generation.py  one clip and clips at once, by stage, beside the reference
    precompute.py  what storing a clip's tensors costs
    loader.py      samples/s per core, and the start over a million samples
    other_loaders.py  loaders of other packages, which it is measured beside
    report.py      all of it: lines on the screen, one JSON file
    comparing.py   which figures became worse since an older file

A section is a module with `measure(size, folder)`, which returns name → Figure, or a plain number.
"""
