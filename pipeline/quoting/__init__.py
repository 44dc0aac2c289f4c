"""Which nodes to rent for a job, how long it will take, what it will cost."""
