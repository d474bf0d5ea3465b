"""How many draft actors and target replicas there should be: pure policies over samples of the load, and a simulator that tries them."""
