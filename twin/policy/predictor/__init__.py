"""Will a node fail within the horizon? Features, three families of evidence, and their fusion into one probability."""
