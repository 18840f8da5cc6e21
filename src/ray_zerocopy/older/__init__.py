"""The older interface, over the same path as the wrappers. Its import paths are those of `ray_zerocopy` itself."""
