class Watch:
    epoch: int
