"""The models of the zoo, a module per family; each has `ENTRIES`."""
