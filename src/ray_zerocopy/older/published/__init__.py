"""The interface of ray-zerocopy 0.2.0 as it was published, over the same path as the wrappers.

Its import paths are those that it had there: `ray_zerocopy`, `.model_wrappers`, `.wrappers`, `.nn`, `.jit`,
`.benchmark`. The migration guide says what replaces each name, what differs, and how long the names stay.
"""
