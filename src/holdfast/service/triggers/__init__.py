"""Units that start others: sockets, timers, paths (spec supervisor 4.3): rules, and their shell."""
