"""multipathd's CLI socket: framing, grammar, commands, what they print (spec path 6)."""
