"""A trained model: loading, embedding, export."""
