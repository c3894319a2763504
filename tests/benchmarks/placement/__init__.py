"""The placement simulator (`make simulate`): one stream of requests, placed by different rules, each in its own copy of
one simulated federation. The broker's own ranking is called, never rewritten.

    federation   what files hold, and how they are read
    generate     federations and streams drawn from a seed
    network      who sends what to whom, and how fast
    world        sites, queues, caches: what really happens to a session
    rules        which site each rule takes, from what the sites promise
    learned      what earlier sessions have shown, by the broker's own estimators
    experiment   one federation, one stream, every rule
    report       the figures, their intervals, the words, the plot
"""
