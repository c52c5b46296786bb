"""Pictures of batches, neighbours and search results."""
