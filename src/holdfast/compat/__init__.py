"""Doors for programs that were written for others: the `sanlock` Python module, libvirt's lock failure helper.

Nothing else of Holdfast imports this folder.
"""
