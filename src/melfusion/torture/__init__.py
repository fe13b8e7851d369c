"""`melfusion torture`: faults planted into real training runs, and a table of what they cost.

    faults.py     what can go wrong, as callbacks of a run
    child.py      a training with faults in a process that may die of them
    jobs.py       small jobs, forked, and what they left
    outcome.py    what a fault cost: one line of the table
    scenarios.py  what is done to the jobs
    goodput.py    the share of its time in which a job that fails now and then moves on
    report.py     all of it, and the table

Jobs are forked from this process, which has imported the packages and nothing else: a start costs a second, not ten. They are
killed, get faults, and start again until they end. Then their weights, averages, optimizer state, samples and losses are compared
with those of a run that nothing happened to.
"""
