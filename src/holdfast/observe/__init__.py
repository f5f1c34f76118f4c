"""What happened, for whoever asks afterwards: the flight recorder and its reader."""
