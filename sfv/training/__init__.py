"""Lightning lives here: the slow learner, the slow-fast loop, evaluation."""
