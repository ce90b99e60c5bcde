"""Tables of the paper beside ours, from results; what they share is in `table`."""
