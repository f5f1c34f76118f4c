"""What every daemon of the package needs: log, background process, processes, priority. Knows none of them."""
