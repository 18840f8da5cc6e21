"""The older interface to TorchScript modules. Its import paths are those of `ray_zerocopy.jit`."""
