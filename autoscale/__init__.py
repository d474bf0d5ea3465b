"""A future room: the policies that decide how many draft actors and target replicas there are."""
