"""The path daemon: checks the paths of dm-multipath maps, fails and reinstates them, as multipathd does."""
