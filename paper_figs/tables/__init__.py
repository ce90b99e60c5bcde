"""Tables of the paper beside ours, from results."""
