"""The commands of `jaxdml`: one file each."""
