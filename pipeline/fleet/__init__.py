"""The Fleet: replicas of the model on every card of the cluster, leased to those who have pixels."""
