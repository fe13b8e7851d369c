"""`melfusion torture`: faults planted into real training runs, and a table of what they cost.

    faults.py     what can go wrong, as callbacks and patches of a run
    jobs.py       small runs of the real command, forked, and what came of them
    scenarios.py  what is done to the jobs
    goodput.py    how much of its time a job that fails now and then is at work
    report.py     all of it, and the table

Jobs are forked from this process, which has only imported the packages: a start costs a second, not ten. They are
killed, starved, lied to, and started again by the same command until they end; then their weights, averages, optimizer
state, samples and losses are compared with those of a run that nothing happened to.
"""
