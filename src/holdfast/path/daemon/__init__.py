"""The path daemon: owns all paths and maps, and carries out what the rules decide (spec path 4, 14)."""
