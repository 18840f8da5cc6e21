"""How an image reaches other processes: through Ray's object store, with the keeper for models that have names."""
