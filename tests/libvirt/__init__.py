"""libvirt with Holdfast: the lock failure helper, and a real libvirtd with its sanlock plugin and qemu."""
